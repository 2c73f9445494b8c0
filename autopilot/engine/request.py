"""The request for a run, with its options, and the name that the run gets."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autopilot import __version__
from autopilot.core.records.record import Manifest
from autopilot.engine.options import NO_OPTIONS, Options
from autopilot.engine.target import Target
from autopilot.errors import ExperimentError, LockHeldError
from autopilot.git.locks import ExclusiveLock
from autopilot.git.repository import Repository
from autopilot.sandbox.workspace import directory_of
from autopilot.tracking.layout import Layout, free_slugs, hold


@dataclass(frozen=True, slots=True)
class Request:
    """A run as the user asked for it.

    Args:
        folder: The folder that the command was typed in.
        target: As it was written.
        slug: The experiment's name; None: the target's name and a number.
        project: The first part of the name.
        in_place: Work in the user's own checkout.
        links: Ignored paths that the evaluation needs.
        include_dirty: Take uncommitted content of the parameters into the start commit.
        idea: The change that is tried, in words.
        hypothesis: Its expected effect.
        stem: What an experiment without a slug is called after; "": its target.
        by_hand: The steps are the edits of a person, or of an agent at work.
    """

    folder: Path
    target: str
    slug: str | None = None
    project: str | None = None
    seed: int = 0
    hparams: Mapping[str, str] = field(default_factory=dict)
    options: Options = NO_OPTIONS
    in_place: bool = False
    links: Sequence[str] = ()
    include_dirty: bool = False
    idea: str = ""
    hypothesis: str = ""
    stem: str = ""
    by_hand: bool = False

    def full_slug(self) -> str:
        """The name that was asked for, with the project's in front."""
        has_project = self.project and "/" not in str(self.slug)
        return f"{self.project}/{self.slug}" if has_project else str(self.slug)

    def manifest(self, user: Repository, slug: str, target: Target, base: str) -> Manifest:
        """The record of how the experiment is run, for its start commit."""
        return Manifest(
            slug=slug,
            target=target.text,
            hparams=dict(self.hparams),
            options=self.options.given(),
            seed=self.seed,
            idea=self.idea,
            hypothesis=self.hypothesis,
            base=base,
            base_branch=user.head_name(),
            directory=directory_of(user, self.folder),
            links=tuple(self.links),
            in_place=self.in_place,
            by_hand=self.by_hand,
            versions={"autopilot": __version__, "python": platform.python_version()},
        )


def claim(user: Repository, target: Target, request: Request) -> tuple[str, ExclusiveLock]:
    """A name for the experiment, and its lock, which keeps other processes from taking it.

    Raises:
        ExperimentError: the name is taken.
        SlugError: it is malformed, or another ref is in its way.
        LockHeldError: another process is just starting it.
    """
    if request.slug is None:
        for slug in free_slugs(user, request.stem or target.stem, request.project):
            lock = ExclusiveLock(Layout(slug).lock(user))
            Layout(slug).check_free(user)
            with contextlib.suppress(LockHeldError):
                lock.acquire()
                return slug, lock
    slug = request.full_slug()
    lock = ExclusiveLock(Layout(slug).lock(user))
    try:
        name_of(user, target, request)
    except ExperimentError:
        # Of a run that is going on, the process is named: a better reason than its name.
        hold(lock, slug)
        lock.release()
        raise
    hold(lock, slug)
    return slug, lock


def name_of(user: Repository, target: Target, request: Request) -> str:
    """The name that `claim` would give; it leaves no file behind, and raises the same errors."""
    if request.slug is None:
        return next(free_slugs(user, request.stem or target.stem, request.project))
    slug = request.full_slug()
    Layout(slug).check_free(user)
    return slug
