"""The very steps of the CI templates, run by bash in a clone as the services run them."""

from __future__ import annotations

import os
import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from forks import program

from tests.cli.conftest import COUNTER, Place

TEMPLATES = Path(__file__).resolve().parents[2] / "examples" / "ci"
SLUG = "spelling"


def parsed(name: str) -> Any:
    return yaml.safe_load((TEMPLATES / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare remote with an experiment and its review branch."""
    folder = tmp_path_factory.mktemp("ci")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    patch.setenv("PYTHONPATH", str(TEMPLATES.parents[1]))
    place = Place(folder / "repo", folder / "cache")
    place.init()
    place.write("x.txt", "1\n")
    place.write("counter.py", COUNTER)
    place.commit("base")
    place.git("init", "--quiet", "--bare", "--initial-branch=main", str(folder / "remote.git"))
    place.git("remote", "add", "origin", str(folder / "remote.git"))
    place.git("push", "--quiet", "-u", "origin", "main")
    place.run("run", "counter.py", "-e", SLUG)
    place.run("propose", "create", SLUG, "--push")
    patch.undo()
    return folder / "remote.git"


class Job:
    """A machine of a CI service with a clone of the review branch.

    Args:
        folder: Where it is made.
        remote: What it clones.
    """

    def __init__(self, folder: Path, remote: Path) -> None:
        self.clone, self.said = folder / "clone", folder / "said"
        self.variables: dict[str, str] = {}
        self.branch = f"autopilot-review/{SLUG}"
        subprocess.run(
            ["git", "clone", "--quiet", "--branch", self.branch, remote, self.clone], check=True
        )
        programs = folder / "bin"
        # What goes out to the service is written down instead.
        self._program(programs / "gh", f'printf "%s\\n" "$@" > "{self.said}"')
        self._program(programs / "curl", f'printf "%s\\n" "$@" > "{self.said}"')
        self.environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONPATH": str(TEMPLATES.parents[1]),
        }

    def _program(self, path: Path, line: str) -> None:
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def step(self, script: str) -> subprocess.CompletedProcess[str]:
        """Runs a script with the variables of now, as both services do."""
        return subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            cwd=self.clone,
            env=self.environment | self.variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def git(self, *arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=x", "-c", "user.email=x@y", *arguments],
            cwd=self.clone,
            check=True,
            capture_output=True,
        )


@pytest.fixture
def job(tmp_path: Path, remote: Path) -> Iterator[Job]:
    (tmp_path / "bin").mkdir()
    with program(tmp_path / "bin" / "autopilot"):
        yield Job(tmp_path, remote)


def github(job: Job) -> dict[str, subprocess.CompletedProcess[str]]:
    """Runs the steps of the workflow that are scripts, until one fails, then those of always()."""
    work = parsed("github.yml")["jobs"]["replay"]
    given = {
        "github.head_ref || github.ref_name": job.branch,
        "github.token": "a-token",
        "github.event.number": "12",
    }
    environment, summary = job.clone.parent / "env", job.clone.parent / "summary"
    environment.touch()
    for name, value in work["env"].items():
        job.variables[name] = re.sub(r"\$\{\{ (.*?) \}\}", lambda m: given[m[1]], value)
    job.variables |= {"GITHUB_ACTIONS": "true", "GITHUB_ENV": str(environment)}
    job.variables["GITHUB_STEP_SUMMARY"] = str(summary)
    done: dict[str, subprocess.CompletedProcess[str]] = {}
    for step in work["steps"]:
        failed = any(found.returncode for found in done.values())
        if "run" not in step or step["name"] == "Install":
            continue
        condition = step.get("if", "")
        if failed and "always()" not in condition:
            continue
        if "env.SLUG != ''" in condition and not job.variables.get("SLUG"):
            continue
        done[step["name"]] = job.step(step["run"])
        lines = environment.read_text().splitlines()
        job.variables |= dict(line.split("=", 1) for line in lines)
    return done


def gitlab(job: Job) -> subprocess.CompletedProcess[str]:
    """Runs the script of the job as one, as the runner does."""
    work = parsed("gitlab.yml")["autopilot"]
    job.variables = work["variables"] | {
        "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": job.branch,
        "CI_MERGE_REQUEST_IID": "12",
        "CI_PROJECT_ID": "7",
        "CI_API_V4_URL": "https://git.example.com/api/v4",
        "AUTOPILOT_TOKEN": "a-token",
    }
    return job.step("\n".join(work["script"]))


def check_outputs(job: Job, *, failures: int) -> None:
    suite = ET.parse(job.clone / "replay.xml").getroot()
    assert sum(int(s.get("failures", 0)) for s in suite.iter("testsuite")) == failures
    assert "<html" in (job.clone / "report.html").read_text()
    assert SLUG in (job.clone / "report.md").read_text()


def test_github_replays_reports_and_comments(job: Job) -> None:
    done = github(job)
    assert {name: step.returncode for name, step in done.items()} == dict.fromkeys(
        ["Fetch the experiment", "Replay", "Report", "Comment"], 0
    ), done
    check_outputs(job, failures=0)
    assert (job.clone.parent / "summary").read_text() == (job.clone / "report.md").read_text()
    assert job.said.read_text().split()[:3] == ["pr", "comment", "12"]


def test_gitlab_replays_reports_and_comments(job: Job) -> None:
    done = gitlab(job)
    assert done.returncode == 0, done.stderr
    check_outputs(job, failures=0)
    assert "/projects/7/merge_requests/12/notes" in job.said.read_text()


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_a_request_that_takes_an_epoch_back_passes_without_a_replay(job: Job, service: str) -> None:
    job.branch = f"autopilot-review/{SLUG}-revert"
    if service == "github":
        done = github(job)
        assert {name: step.returncode for name, step in done.items()} == {
            "Fetch the experiment": 0
        }, done
    else:
        done_at_once = gitlab(job)
        assert done_at_once.returncode == 0, done_at_once.stderr
    assert not (job.clone / "replay.xml").exists()
    assert not job.said.exists()


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_an_experiment_that_is_not_there_fails_the_job(job: Job, service: str) -> None:
    job.branch = "autopilot-review/nosuch"
    if service == "github":
        assert github(job)["Fetch the experiment"].returncode == 1
    else:
        assert gitlab(job).returncode == 1


@pytest.mark.parametrize("service", ["github", "gitlab"])
def test_a_changed_note_fails_the_job_and_is_reported(job: Job, service: str) -> None:
    job.git("fetch", "-q", "origin", "refs/notes/*:refs/notes/*", "refs/tags/*:refs/tags/*")
    ref = f"autopilot/{SLUG}/metrics"
    tag = f"autopilot/{SLUG}/epoch-0002"
    note = subprocess.run(
        ["git", "notes", f"--ref={ref}", "show", f"{tag}^{{commit}}"],
        cwd=job.clone,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert '"accuracy":0.4' in note
    forged = note.replace('"accuracy":0.4', '"accuracy":0.9')
    job.git("notes", f"--ref={ref}", "add", "-f", "-m", forged, f"{tag}^{{commit}}")
    if service == "github":
        done = github(job)
        assert done["Replay"].returncode == 1
        assert "::error" in done["Replay"].stdout
        assert done["Comment"].returncode == 0
    else:
        assert gitlab(job).returncode == 1
    suite = ET.parse(job.clone / "replay.xml").getroot()
    assert sum(int(s.get("failures", 0)) for s in suite.iter("testsuite")) >= 1
    assert job.said.exists()


def test_the_templates_install_what_they_say() -> None:
    (install,) = (
        step["run"]
        for step in parsed("github.yml")["jobs"]["replay"]["steps"]
        if step.get("name") == "Install"
    )
    assert parsed("gitlab.yml")["autopilot"]["before_script"] == [install]
    assert install == 'python -m pip install "$AUTOPILOT_PACKAGE"'
