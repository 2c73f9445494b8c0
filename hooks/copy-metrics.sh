# copy_metrics FROM TO SLUG: the metrics note of one commit is another one's too. It is written in
# the fan-out of autopilot and only on top of what is there: a run that writes notes meanwhile
# loses none.
copy_metrics() {
  ref=refs/notes/autopilot/$3/metrics
  note=$(git notes --ref="$ref" list "$1" 2>/dev/null) || return 0
  if git notes --ref="$ref" list "$2" >/dev/null 2>&1; then return 0; fi
  who=$(git var GIT_COMMITTER_IDENT) || return 0
  what="metrics of $(git rev-parse --short "$1") follow to $(git rev-parse --short "$2")"
  rest=${2#??}
  for wait in 0 0 0 0 0 1 1 1 2 2; do
    # One process from the look at the tip to the move of the ref, so that others rarely come between.
    if printf 'commit %s\ncommitter %s\ndata <<.\n%s\n.\nfrom %s^0\nM 100644 %s %s\n\n' \
      "$ref" "$who" "autopilot($3): $what" "$ref" "$note" "${2%"$rest"}/$rest" |
      git fast-import --quiet >/dev/null 2>&1; then
      echo "autopilot: $3: $what" >&2
      return 0
    fi
    sleep "$wait"
  done
  echo "autopilot: $3: $what, but the notes are being written: try it again with" >&2
  echo "  git notes --ref=$ref copy $1 $2" >&2
}
