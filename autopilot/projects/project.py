"""Projects of a workspace: `autopilot/projects/<name>/cli.py`, found from any folder below.

```
workspace/
  autopilot/
    pyproject.toml          what the projects need
    projects/
      my-project/
        cli.py              class MyCLI(AutoPilotCLI, project="my-project"), and MyCLI()()
        experiments/        hparams.json: the hyperparameters that its runs start with
        datasets/           JSON Lines
```

A new project is copied from `template/`: a small one that improves itself without a model.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopilot.engine.loading import PROJECT_FILE, load_command_line
from autopilot.errors import SlugError, UsageError

PROJECTS = Path("autopilot", "projects")
# Each lies in template/ with ".txt" at its end, so that nothing takes it for code of the package.
TEMPLATE = Path(__file__).with_name("template")
_WORKSPACE_FILES = ("pyproject.toml", ".gitignore")
_PROJECT_FILES = (
    *("cli.py", "trainer.py", "rules.txt", "ai/judge.py", "ai/generator.py"),
    "experiments/hparams.json",
)
_ITEMS = 120


@dataclass(frozen=True, slots=True)
class Project:
    """A project, complete or not.

    Args:
        name: The first part of its experiments' names.
        workspace: The folder that its commands work in.
        file: Its `cli.py`.
    """

    name: str
    workspace: Path
    file: Path

    @property
    def folder(self) -> Path:
        """The folder of all its files."""
        return self.file.parent

    @property
    def datasets(self) -> Path:
        """The folder of its data."""
        return self.folder / "datasets"

    @property
    def hparams(self) -> Path:
        """The file of the hyperparameters that its runs start with."""
        return self.folder / "experiments" / "hparams.json"

    @property
    def target(self) -> str:
        """The TARGET that `autopilot run` takes in the workspace's folder."""
        return Path(os.path.relpath(self.file, self.workspace)).as_posix()


def find_workspace(folder: Path) -> Path | None:
    """The workspace around a folder, looked for up to the repository's top; None if there is none.

    It is the folder that holds `autopilot/projects/` or `autopilot/pyproject.toml`.
    """
    for place in (folder, *folder.parents):
        if (place / PROJECTS).is_dir() or (place / "autopilot" / "pyproject.toml").is_file():
            return place
        if (place / ".git").exists():
            break
    return None


def projects_of(workspace: Path) -> list[Project]:
    """All projects of a workspace by name, those without a `cli.py` too."""
    home = workspace / PROJECTS
    names = sorted(p.name for p in home.iterdir() if p.is_dir()) if home.is_dir() else []
    return [project_at(workspace, name) for name in names if name[0] not in "._"]


def project_at(workspace: Path, name: str) -> Project:
    """The project of that name, whether it exists or not."""
    return Project(name, workspace, workspace / PROJECTS / name / PROJECT_FILE)


def find_project(folder: Path, name: str) -> Project:
    """A project of the workspace around a folder.

    Raises:
        UsageError: there is no workspace, or no such project; it names the existing ones.
    """
    workspace = find_workspace(folder)
    make = f"autopilot project init {name}"
    if workspace is None:
        raise UsageError(f"there is no workspace around {folder}", hint=f"{make} makes one here")
    project = project_at(workspace, name)
    if not project.folder.is_dir():
        names = [each.name for each in projects_of(workspace)]
        close = difflib.get_close_matches(name, names, n=1)
        there = f"did you mean {close[0]}?" if close else f"projects: {', '.join(names) or 'none'};"
        raise UsageError(
            f"there is no project {name} in {workspace}", hint=f"{there} {make} makes it"
        )
    return project


def read_hparams(file: Path) -> dict[str, str]:
    """A project's saved hyperparameters, in the form of `-H`; empty where there is no file."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is no JSON: {error}", hint="mend it, or delete it") from error
    if not isinstance(values, dict):
        raise UsageError(f"{file} is no JSON object", hint='write {"threshold": 0.5}')
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in values.items()}


def write_hparams(file: Path, hparams: Mapping[str, str]) -> None:
    """Saves a project's hyperparameters; numbers, booleans and the like as JSON values."""
    file.parent.mkdir(parents=True, exist_ok=True)
    values = {key: _json_value(text) for key, text in hparams.items()}
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8")


def _json_value(text: str) -> Any:
    # Only what reads back as the very same text: "1e3" or "0.50" stay texts.
    with contextlib.suppress(ValueError):
        value = json.loads(text)
        if not isinstance(value, str) and json.dumps(value) == text:
            return value
    return text


def make_workspace(folder: Path) -> list[Path]:
    """Writes the files that mark a workspace and returns them; existing files stay."""
    name = folder.resolve().name.lower()
    clean = "".join(c if c.isascii() and c.isalnum() else "-" for c in name).strip("-")
    names = {"workspace": clean or "workspace"}
    return _write("workspace", _WORKSPACE_FILES, folder / "autopilot", names)


def make_project(project: Project) -> list[Path]:
    """Writes a project that can be run at once, and returns its files.

    Its datasets are made by its own generator.

    Raises:
        SlugError: experiments cannot have such a name in front of theirs.
        UsageError: it exists already; nothing is written.
    """
    from autopilot.data.dataset import ListDataset
    from autopilot.tracking.layout import Layout

    try:
        Layout(f"{project.name}/run-1")
    except SlugError as error:
        raise SlugError(f"{project.name!r} cannot be a project's name", hint=error.hint) from error
    if project.folder.exists():
        raise UsageError(
            f"{project.folder} exists already",
            hint=f"autopilot project doctor {project.name} looks at it, or choose another name",
        )
    names = {"project": project.name, "path": (PROJECTS / project.name).as_posix()}
    written = _write("project", _PROJECT_FILES, project.folder, names)
    with tempfile.TemporaryDirectory() as folder:
        load_command_line(project.file).generator.run(_ITEMS, folder)
        for made in sorted(Path(folder).glob("[tv]*.jsonl")):
            place = project.datasets / made.name
            ListDataset.from_jsonl(made).to_jsonl(place)
            written.append(place)
    return written


def filled(template: str, names: Mapping[str, str]) -> str:
    """The text of a template, with values in place of the names in braces."""
    text = (TEMPLATE / f"{template}.txt").read_text(encoding="utf-8")
    # In one pass, and not str.format: the templates are Python, with braces of their own.
    keys = re.compile("|".join(re.escape(f"{{{key}}}") for key in names) or "$^")
    return keys.sub(lambda found: names[found[0][1:-1]], text)


def _write(part: str, files: Iterable[str], folder: Path, names: Mapping[str, str]) -> list[Path]:
    new = [name for name in files if not (folder / name).exists()]
    for name in new:
        text = filled(f"{part}/{name}", names)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in new]
