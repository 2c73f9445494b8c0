"""Projects of a workspace: found from below, made from the template, with saved hyperparameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autopilot.errors import SlugError, UsageError
from autopilot.projects.project import (
    Project,
    find_project,
    find_workspace,
    make_project,
    make_workspace,
    project_at,
    projects_of,
    read_hparams,
    write_hparams,
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    make_workspace(tmp_path)
    for name in ("spam", "ham", "_hidden"):
        (tmp_path / "autopilot" / "projects" / name).mkdir(parents=True)
    return tmp_path


def test_a_workspace_is_found_from_below_but_not_beyond_a_repository(workspace: Path) -> None:
    deep = workspace / "autopilot" / "projects" / "spam" / "ai"
    deep.mkdir()
    assert find_workspace(deep) == workspace
    inner = workspace / "inner"
    (inner / ".git").mkdir(parents=True)
    assert find_workspace(inner) is None


def test_projects_are_listed_and_found_by_name(workspace: Path) -> None:
    assert [project.name for project in projects_of(workspace)] == ["ham", "spam"]
    spam = find_project(workspace, "spam")
    assert spam.target == "autopilot/projects/spam/cli.py"
    assert spam.hparams == spam.folder / "experiments" / "hparams.json"
    with pytest.raises(UsageError, match="no project spem") as caught:
        find_project(workspace, "spem")
    assert "did you mean spam?" in caught.value.hint


def test_a_workspace_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "My Work!"
    made = make_workspace(folder)
    assert [path.name for path in made] == ["pyproject.toml", ".gitignore"]
    assert 'name = "my-work-autopilot"' in made[0].read_text()
    made[0].write_text("mine\n")
    assert make_workspace(folder) == []
    assert made[0].read_text() == "mine\n"


def test_a_new_project_has_code_and_data_of_its_own(tmp_path: Path) -> None:
    project = project_at(tmp_path, "spam")
    written = make_project(project)
    names = [path.relative_to(project.folder).as_posix() for path in written]
    assert names[:3] == ["cli.py", "trainer.py", "rules.txt"]
    assert names[-3:] == [f"datasets/{split}.jsonl" for split in ("test", "train", "val")]
    assert 'project="spam"' in project.file.read_text()
    assert "{project}" not in project.file.read_text()
    assert read_hparams(project.hparams) == {"batch_size": "8"}
    for path in written:
        if path.suffix == ".py":
            compile(path.read_text(), str(path), "exec")
    with pytest.raises(UsageError, match="exists already"):
        make_project(project)


def test_a_project_needs_a_name_that_experiments_can_have(tmp_path: Path) -> None:
    with pytest.raises(SlugError, match="cannot be a project's name"):
        make_project(Project("Spam!", tmp_path, tmp_path / "Spam!" / "cli.py"))
    assert not (tmp_path / "Spam!").exists()


def test_saved_hyperparameters_read_back_as_they_were_given(tmp_path: Path) -> None:
    file = tmp_path / "experiments" / "hparams.json"
    assert read_hparams(file) == {}
    given = {"size": "3", "share": "0.50", "on": "true", "name": "x", "names": '["a", "b"]'}
    write_hparams(file, given)
    assert read_hparams(file) == given
    values = json.loads(file.read_text())
    assert (values["size"], values["share"], values["on"]) == (3, "0.50", True)
    for text, said in (("{", "is no JSON:"), ("[]", "is no JSON object")):
        file.write_text(text)
        with pytest.raises(UsageError, match=said):
            read_hparams(file)
