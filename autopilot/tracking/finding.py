"""Finding an experiment by a slug, a branch of a remote, a tag or a commit."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from autopilot.core.records.message import EXPERIMENT, trailer
from autopilot.errors import AutopilotError, ExperimentError, RepositoryError, SlugError
from autopilot.git import commits, refs, remotes
from autopilot.git.repository import Repository
from autopilot.git.worktrees import cache_folder, worktree_path
from autopilot.tracking.layout import BRANCHES, Layout, epoch_of_tag, experiments, is_experiment
from autopilot.tracking.notebook import Notebook

_REMOTES = "refs/remotes/"
_MARK = "autopilot/"
_RUN = "autopilot run TARGET makes one"


@dataclass(frozen=True, slots=True)
class FoundExperiment:
    """An experiment.

    Args:
        where: The ref or the commit that its branch was read from.
        deepened: The remote from which a shallow clone was given the rest; "" if it needed none.
    """

    notebook: Notebook
    where: str
    deepened: str = ""


def find(repo: Repository, name: str | None, project: str | None = None) -> FoundExperiment:
    """Finds an experiment.

    In a shallow clone, its history is fetched as far as it is missing.

    Args:
        name: A slug; its branch, here or of a remote (`origin/autopilot/fix-1`); a tag or a commit
            of its branch, which is read up to there. None: the newest one, here or else of a
            remote.
        project: Put in front of a slug.

    Raises:
        ExperimentError: there is none of that name, or its notes are not here.
        RepositoryError: a shallow clone lacks its history, and the remote does not give it.
    """
    slug, ref, tip = _named(repo, name, project)
    notebook = Notebook(repo, slug, tip)
    remote = ref.removeprefix(_REMOTES).partition("/")[0] if ref.startswith(_REMOTES) else ""
    deepened = ""
    if remotes.is_shallow(repo):
        first = notebook.manifest.base or notebook.start
        if not remotes.reaches(repo, tip, first):
            deepened = remote or remotes.default_remote(repo)
            branch = notebook.layout.branch
            notebook = Notebook(remotes.deepen(repo, deepened, branch, tip, first), slug, tip)
    where = ref.removeprefix("refs/heads/").removeprefix(_REMOTES)
    return FoundExperiment(notebook, where, deepened)


def check_whole(notebook: Notebook) -> Notebook:
    """The same experiment, unless a shallow clone lacks a part of its history.

    Raises:
        RepositoryError: it does; the hint is the command to type.
    """
    repo, branch = notebook.repo, notebook.layout.branch_name
    if remotes.is_shallow(repo):
        first = notebook.manifest.base or notebook.start
        if not remotes.reaches(repo, notebook.tip, first):
            raise RepositoryError(
                f"this clone is shallow: it lacks commits of {branch} after {first[:7]}",
                hint=f"git fetch --unshallow, or: autopilot fetch {notebook.slug}",
            )
    return notebook


def _named(repo: Repository, name: str | None, project: str | None) -> tuple[str, str, str]:
    """Slug, ref and commit."""
    abroad = _abroad(repo)
    if name is None:
        return _newest(repo, abroad, project)
    slug = name.removeprefix("refs/heads/").removeprefix("autopilot/")
    slug = f"{project}/{slug}" if project and "/" not in slug else slug
    with contextlib.suppress(SlugError):
        if here := refs.read_ref(repo, Layout(slug).branch):
            return slug, f"{BRANCHES}{slug}", here
    short = name.removeprefix(_REMOTES).removeprefix("remotes/")
    for ref, tip in abroad.items():
        if short == ref.removeprefix(_REMOTES) or slug == _slug_of(ref):
            return _slug_of(ref), ref, tip
    try:
        tip = repo.resolve(name)
    except RepositoryError:
        tip = ""
    owner = experiment_of(repo, name) if tip else None
    if owner is None:
        there = ", ".join(dict.fromkeys([*experiments(repo), *map(_slug_of, abroad)]))
        hint = f"experiments: {there}" if there else "autopilot fetch brings those of a remote"
        what = f"{name} is no commit of an experiment" if tip else f"there is no experiment {name}"
        raise ExperimentError(what, hint=hint)
    return owner, tip[:7], tip


def _newest(repo: Repository, abroad: dict[str, str], project: str | None) -> tuple[str, str, str]:
    own = experiments(repo)
    theirs = {
        r: t for r, t in abroad.items() if not project or _slug_of(r).startswith(f"{project}/")
    }
    if own or not theirs:
        slug = latest(repo, project)
        return slug, f"{BRANCHES}{slug}", own[slug]
    books = [(Notebook(repo, _slug_of(ref), tip), ref) for ref, tip in theirs.items()]
    newest, ref = max(books, key=lambda pair: pair[0].recency)
    return newest.slug, ref, newest.tip


def _abroad(repo: Repository) -> dict[str, str]:
    """Experiment branches of remotes that a run made; those of `origin` come first."""
    listed = ((ref, _slug_of(ref), tip) for ref, tip in refs.list_refs(repo, _REMOTES).items())
    found = {ref: tip for ref, slug, tip in listed if slug and is_experiment(repo, slug, tip)}
    return dict(
        sorted(found.items(), key=lambda pair: not pair[0].startswith(f"{_REMOTES}origin/"))
    )


def _slug_of(ref: str) -> str:
    """The experiment of a remote's branch; "" if it is of none."""
    branch = ref.removeprefix(_REMOTES).partition("/")[2]
    return branch.removeprefix(_MARK) if branch.startswith(_MARK) else ""


def latest(repo: Repository, project: str | None = None) -> str:
    """The slug of the experiment whose branch has the newest commit; raises if there is none."""
    tips = experiments(repo, project)
    if not tips:
        of = f" of the project {project}" if project else ""
        others = sorted({slug.partition("/")[0] for slug in experiments(repo) if "/" in slug})
        raise ExperimentError(
            f"there is no experiment{of} in {repo.workdir}",
            hint=f"these have some: {', '.join(others)}" if project and others else _RUN,
        )
    times: dict[str, int] = {}
    for slug, tip in tips.items():
        try:
            times[slug] = commits.read_commit(repo, tip).time_s
        except RepositoryError as error:
            what = f"{BRANCHES}{slug} cannot be read: {error.message}"
            repo.damaged.setdefault(what, RepositoryError(what, hint=error.hint))
    newest = [slug for slug in tips if times.get(slug) == max(times.values(), default=None)]
    if len(newest) == 1:
        return newest[0]
    return max(newest, key=lambda slug: Notebook(repo, slug).recency)


def experiment_of(repo: Repository, name: str) -> str | None:
    """The experiment that a tag or a commit belongs to; None if it is none's."""
    tag = name.removeprefix("refs/tags/").removeprefix("tags/")
    if tag.startswith("autopilot/") and epoch_of_tag(tag) is not None:
        return tag.removeprefix("autopilot/").rpartition("/")[0]
    try:
        commit = commits.read_commit(repo, repo.resolve(name))
    except RepositoryError:
        return None
    return trailer(commit.message, EXPERIMENT)


def user_of(repo: Repository) -> tuple[Repository, str | None]:
    """The user's own checkout, and the experiment whose worktree a repository is, if it is one.

    Raises:
        ExperimentError: it is a worktree of ours, and there is no main one.
    """
    root = worktree_path(repo, "x").parent
    if not (repo.workdir.is_relative_to(cache_folder()) and repo.workdir.is_relative_to(root)):
        return repo, None
    if repo.main_workdir is None:
        raise ExperimentError(
            f"{repo.workdir} is a worktree of a repository without a checkout",
            hint="call it from the checkout that the experiment was started in, or with -C",
        )
    name = repo.workdir.relative_to(root).as_posix()
    return Repository.discover(repo.main_workdir), name.partition("@")[0]  # or a candidate's


def open_tries(user: Repository, project: str | None = None) -> list[str]:
    """The experiments that are driven by hand and not finished, the newest last."""
    found = []
    for slug in experiments(user, project):
        with contextlib.suppress(AutopilotError):
            notebook = Notebook(user, slug)
            if notebook.manifest.by_hand and notebook.status.state != "finished":
                found.append(notebook)
    return [notebook.slug for notebook in sorted(found, key=lambda each: each.recency)]
