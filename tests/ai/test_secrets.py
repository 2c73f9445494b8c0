"""Keys, headers and secret environment values never last, whoever echoes them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from runs import TARGET, autopilot, commit_target, notes, role_of, script, subjects
from server import KEY, Received, Reply, edit, fail, say, say_json

from autopilot.engine.target import parse_hparams
from autopilot.errors import UsageError
from autopilot.git.commands import run_git

SECRETS = {
    "ANTHROPIC_API_KEY": KEY,
    "ANTHROPIC_AUTH_TOKEN": "planted-auth-token-0123456789",
    "ANTHROPIC_CUSTOM_HEADERS": "X-Team: planted-header-one\nX-Trace: planted-header-two",
    "DATABASE_PASSWORD": 'planted "password" \\ quoted',
}
VALUES = [
    *(value for name, value in SECRETS.items() if name != "ANTHROPIC_CUSTOM_HEADERS"),
    "planted-header-one",
    "planted-header-two",
]
ECHO = " ".join(VALUES)

# Epoch 1: a model edits. Epoch 2: a hostile program prints secrets, writes them into the prompt,
# and does so again until it is told. Epoch 3: it fails, with secrets on stderr.
HOSTILE = """\
import os, sys
from autopilot.ai import Agent, CommandAgent
from autopilot.core.run import current_run

WRITE = '''
import json, os, sys
secrets = " ".join(os.environ[name] for name in sys.argv[2:])
prompt = sys.stdin.read()
print("looking at", secrets, file=sys.stderr)
if sys.argv[1] == "fail":
    sys.exit("bad key: " + secrets)
told = "wrote down the secret" in prompt
open("prompt.md", "a").write("rule-2\\\\n" if told else secrets)
print("I used", secrets, json.dumps(
    {"strategy": "steal " + secrets, "summary": "take " + secrets, "rationale": secrets}))
'''
NAMES = ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_CUSTOM_HEADERS",
         "DATABASE_PASSWORD"]


class InTurn(Agent):
    asks_recorded = True

    def __init__(self, model):
        self.model = model

    def run(self, prompt, context=None):
        epoch = current_run().epoch
        how = "fail" if epoch == 3 else "write"
        hostile = CommandAgent([sys.executable, "-c", WRITE, how, *NAMES])
        return (AnthropicAgent(self.model) if epoch == 1 else hostile).run(prompt, context)
"""


@pytest.fixture
def top(repository, serve, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a target whose user's code raises secrets, and whose agents echo them."""
    raising = TARGET.replace(
        "        number = item.metadata",
        "        if item.metadata['number'] == 2 and 'rule-2' in self.prompt.read_text():\n"
        "            raise ValueError('cannot log in with ' + os.environ['DATABASE_PASSWORD'])\n"
        "        number = item.metadata",
    ).replace("AnthropicAgent(self.model)", "InTurn(self.model)")
    assert "InTurn(" in raising and "raise ValueError" in raising
    return commit_target(repository.workdir, HOSTILE + raising)


def test_no_secret_gets_into_the_repository_or_out_of_the_run(
    top: Path, serve, git_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journals: list[bytes] = []

    def echoing(request: Received) -> Reply:
        journals.extend(path.read_bytes() for path in (top / ".git" / "autopilot").glob("a.*"))
        role, text = role_of(request), request.last_text()
        if role == "module" and text.endswith("4"):
            return fail(400, message=f"invalid header {ECHO}")
        if role == "module":
            return say(f"your key is {ECHO}") if text.endswith("3") else script(request)
        if role == "judge":
            return say_json({"success": False, "score": 0, "feedback": f"use {ECHO}"})
        if role == "collator":
            found = [{"direction": f"use {ECHO}", "attribution": ECHO, "evidence": [ECHO]}]
            return say_json({"findings": found})
        if len(request.body["messages"]) == 1:
            added = f"rule-1 {ECHO}"
            return edit("insert", path="prompt.md", insert_line=1, insert_text=added)
        return say_json({"strategy": ECHO, "summary": f"add {ECHO}", "rationale": ECHO})

    server = serve(echoing)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    run = ("run", "answerer.py", "-e", "a", "--max-epochs", "3", "-H", "retries=0")
    done = autopilot(top, *run, "--idea", f"use {ECHO}")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = autopilot(top, "show", "3", "--json")

    # The secrets went all the way: they were sent, and came back.
    headers = server.requests[0].headers
    assert KEY in headers["authorization"]
    assert headers["x-trace"] == "planted-header-two"
    calls, steps = notes(top, "llm"), notes(top, "gradients")
    assert {call["role"] for call in calls} == {"module", "judge", "collator", "optimizer"}
    assert sum("[hidden]" in json.dumps(call["reply"]) for call in calls) >= 8
    # The planted edit of epoch 2 was refused, told to the agent, and made without the secret.
    assert [record["epoch"] for record in steps] == [1, 2, 3]
    assert steps[1]["summary"].startswith("take [hidden]")
    assert [call["epoch"] for call in calls if call["role"] == "optimizer"] == [1, 1, 2, 2, 3]
    assert "bad key: [hidden]" in steps[2]["error"]
    best = run_git(["show", "autopilot/a:prompt.md"], cwd=top).stdout.decode()
    tried = run_git(["log", "-p", "--format=", "autopilot/a"], cwd=top).stdout.decode()
    assert "rule-1 [hidden]" in best + tried and "+rule-2" in tried
    assert "cannot log in with [hidden]" in json.dumps(notes(top, "traces"))
    assert subjects(top)[1].startswith("autopilot(a): epoch 1: add [hidden]")

    # And nothing of them is anywhere: objects loose and packed, notes, tags, reflogs, journals.
    assert any(b'"kind":"llm"' in journal for journal in journals)
    for place in (top, git_environment):
        journals += [p.read_bytes() for p in place.rglob("*") if p.is_file()]
    everything = b"\n".join(
        [
            _objects(top),
            run_git(["log", "--all", "--reflog", "--notes=*", "-p"], cwd=top).stdout,
            *journals,
            *(text.encode() for text in (done.stdout, done.stderr, shown.stdout, shown.stderr)),
        ]
    )
    run_git(["gc", "--quiet"], cwd=top)
    everything += _objects(top)
    for value in VALUES:
        for form in (value, json.dumps(value)[1:-1], value[:12]):
            assert form.encode() not in everything, form


def test_a_crash_tells_no_secret(top: Path, serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own code raises outside the evaluation of an item."""
    serve(script)
    monkeypatch.setenv("DATABASE_PASSWORD", SECRETS["DATABASE_PASSWORD"])
    path = top / "answerer.py"
    text = path.read_text().replace(
        "        return self.train_dataloader() if",
        "        raise ValueError('cannot log in with ' + os.environ['DATABASE_PASSWORD'])\n"
        "        return self.train_dataloader() if",
    )
    path.write_text(text)
    run_git(["commit", "--quiet", "--all", "--message=crash"], cwd=top)
    done = autopilot(top, "run", "answerer.py", "-e", "a", "--json")
    assert done.returncode == 1
    assert "cannot log in with [hidden]" in done.stderr
    assert "planted" not in done.stdout + done.stderr


@pytest.mark.parametrize("value", ["sk-ant-api03-abcdef0123456789", "planted-secret"])
def test_a_secret_is_no_argument(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Arguments stand in the manifest, which is shared."""
    monkeypatch.setenv("SERVICE_TOKEN", "planted-secret")
    with pytest.raises(UsageError, match=r"-H key: .* recorded in git") as caught:
        parse_hparams(["name=b", f"key={value}"])
    assert value not in f"{caught.value} {caught.value.hint}"
    assert "environment variable" in caught.value.hint


def _objects(top: Path) -> bytes:
    command = ["git", "cat-file", "--batch-all-objects", "--batch"]
    found = subprocess.run(command, cwd=top, capture_output=True, check=True).stdout
    assert b"autopilot(a)" in found
    return found + os.fsencode(top)
