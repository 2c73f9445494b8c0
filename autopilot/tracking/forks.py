"""Forks: new experiments that start from another one's state, or from two states merged.

A fork is a whole experiment: a start commit with a manifest, and no epoch yet. Its history leads
back into the experiment that it comes from, so git knows where it left it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from autopilot.core.records.message import plain_message, start_message
from autopilot.core.records.record import Event, Manifest
from autopilot.errors import ExperimentError
from autopilot.git import commits, objects, refs
from autopilot.git.merging import merge_base, merge_trees
from autopilot.git.repository import Repository
from autopilot.tracking.holding import held
from autopilot.tracking.journal import Journal
from autopilot.tracking.layout import Layout
from autopilot.tracking.notebook import Notebook


@dataclass(frozen=True, slots=True)
class Fork:
    """A new experiment.

    Args:
        slug: Its name.
        start: Its start commit.
        base: The commit that it starts from.
    """

    slug: str
    start: str
    base: str


def fork(source: Notebook, epoch: int, slug: str, *, idea: str = "", hypothesis: str = "") -> Fork:
    """Begins an experiment from the state of an epoch, kept or not.

    Target, arguments, options and seed are the source's; memory and baseline are its own.

    Raises:
        ExperimentError: the name is taken, or there is no such epoch.
        SlugError: the name is malformed.
    """
    base = source.after(source.epoch(epoch).number)
    manifest = _manifest(source, slug, base, idea, hypothesis)
    manifest = replace(manifest, forked_from=f"{source.slug}@{epoch}")
    return _begin(source.repo, manifest, f"forked from {source.slug}, epoch {epoch}")


def merge(
    ours: Notebook, theirs: Notebook, slug: str, *, idea: str = "", hypothesis: str = ""
) -> Fork | None:
    """Begins an experiment from the best states of two, merged.

    Target, arguments, options and seed are those of `ours`.

    Returns:
        The new experiment; None if `ours` has already all that `theirs` has.

    Raises:
        ExperimentError: they conflict, and it names the files; or the name is taken. Nothing is
            written then.
    """
    repo = ours.repo
    bests = [_best(notebook) for notebook in (ours, theirs)]
    (our_epoch, our_commit), (their_epoch, their_commit) = bests
    base = merge_base(repo, our_commit, their_commit)
    if base is None:
        raise ExperimentError(
            f"{ours.slug} and {theirs.slug} have no commit in common",
            hint="only experiments of one history can be merged",
        )
    merged = merge_trees(repo, base, our_commit, their_commit)
    if merged.conflicts:
        raise ExperimentError(
            f"{theirs.slug} and {ours.slug} conflict in {', '.join(merged.conflicts)}; "
            "nothing was written",
            hint=f"compare them: git diff {our_commit[:7]} {their_commit[:7]} -- "
            f"{merged.conflicts[0]}",
        )
    if merged.tree == objects.tree_of(repo, our_commit):
        return None
    what = f"merge {theirs.slug} epoch {their_epoch} into {ours.slug} epoch {our_epoch}"
    text = plain_message(slug, what)
    _check_new(repo, slug)
    parents = [our_commit, their_commit]
    joined = commits.commit(repo, tree=merged.tree, parents=parents, message=text)
    manifest = replace(
        _manifest(ours, slug, joined, idea, hypothesis),
        forked_from=f"{ours.slug}@{our_epoch}",
        merged_with=f"{theirs.slug}@{their_epoch}",
    )
    detail = f"merged from {ours.slug}, epoch {our_epoch}, and {theirs.slug}, epoch {their_epoch}"
    return _begin(repo, manifest, detail)


def _best(notebook: Notebook) -> tuple[int, str]:
    if notebook.last is None:
        raise ExperimentError(
            f"{notebook.slug} has no judged epoch yet", hint=f"autopilot resume {notebook.slug}"
        )
    epoch = notebook.last.best_epoch
    return epoch, notebook.after(epoch)


def _manifest(source: Notebook, slug: str, base: str, idea: str, hypothesis: str) -> Manifest:
    return replace(
        source.manifest,
        slug=slug,
        base=base,
        base_branch=source.layout.branch_name,
        in_place=False,  # the user's checkout is not at that state
        idea=idea or source.manifest.idea,
        hypothesis=hypothesis or source.manifest.hypothesis,
        forked_from="",
        merged_with="",
    )


def _check_new(repo: Repository, slug: str) -> None:
    layout = Layout(slug)
    if refs.read_ref(repo, layout.branch) is not None:
        raise ExperimentError(
            f"the experiment {slug} exists already", hint="choose another name for the new one"
        )
    layout.check_free(repo)


def _begin(repo: Repository, manifest: Manifest, detail: str) -> Fork:
    """Objects, then notes, then the branch: as every experiment begins."""
    layout = Layout(manifest.slug)
    with held(repo, manifest.slug):
        _check_new(repo, manifest.slug)
        refs.clear_stale_locks(repo, layout.namespaces())
        left = refs.read_ref(repo, layout.notes("experiment"))
        if left is not None:  # of a start that was killed
            refs.delete_ref(repo, layout.notes("experiment"), left)
        tree = objects.tree_of(repo, manifest.base)
        text = start_message(manifest)
        start = commits.commit(repo, tree=tree, parents=[manifest.base], message=text)
        created = Event(name="created", detail=detail).stamped()
        Journal(repo, layout).write(start, [manifest, created])
        refs.create_ref(repo, layout.branch, start, f"autopilot: {detail}")
    return Fork(manifest.slug, start, manifest.base)
