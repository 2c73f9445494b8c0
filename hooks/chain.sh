# The hook that was here before runs first: it gets the same arguments and the same input.
kept="$0.before-autopilot"

run_kept() {
  line=$(head -n 1 "$kept" | tr -d '\000\r')
  interpreter=${line#"#!"}
  program=${interpreter%% *}
  if [ "${program##*/}" = env ]; then
    program=${interpreter##*env }
    program=${program%% *}
  fi
  case "$line ${program##*/}" in
    "#!"*" sh" | "#!"*" bash" | "#!"*" dash" | "#!"*" ash" | "#!"*" ksh")
      # Read in by its own shell under its old name: what it finds by "$0" is found as before.
      # shellcheck disable=SC2016,SC2086
      $interpreter -c 'autopilot_kept=$1; shift; . "$autopilot_kept"' "$0" "$kept" "$@"
      ;;
    *) "$kept" "$@" ;;
  esac
}

status=0
case $hook in
  pre-push | pre-receive | post-rewrite)
    input=$(mktemp "${TMPDIR:-/tmp}/autopilot.XXXXXX") || exit 1
    trap 'rm -f "$input"' EXIT
    cat >"$input"
    if [ -x "$kept" ]; then run_kept "$@" <"$input" || status=$?; fi
    exec <"$input"
    rm -f "$input"
    trap - EXIT
    ;;
  *) if [ -x "$kept" ]; then run_kept "$@" || status=$?; fi ;;
esac
case $hook in pre-*) [ "$status" = 0 ] || exit "$status" ;; esac
