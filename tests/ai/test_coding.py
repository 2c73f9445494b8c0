"""Coding tools on the command line, as real processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autopilot.ai.agent import AgentContext
from autopilot.ai.coding import ClaudeCodeAgent, CommandAgent
from autopilot.ai.model.recording import request_key
from autopilot.core.parameter import PathParameter
from autopilot.errors import (
    AgentError,
    AgentNotFoundError,
    AgentRefusedError,
    AgentReplyError,
    AgentTimeoutError,
    KeyRefusedError,
    ModelCallError,
    UsageError,
)

FAKE = """#!{python}
import json, pathlib, sys
prompt = sys.stdin.read()
pathlib.Path("seen.json").write_text(json.dumps({{"argv": sys.argv[1:], "prompt": prompt}}))
{body}
print(json.dumps({{"type": "result", "subtype": "success", "is_error": False,
    "result": "done: " + prompt, "session_id": "s-1", "total_cost_usd": 0.25,
    "stop_reason": "end_turn", "modelUsage": {{"claude-opus-5-5": {{}}}},
    "usage": {{"input_tokens": 10, "cache_read_input_tokens": 5,
              "cache_creation_input_tokens": 1, "output_tokens": 7}}}}))
"""


@pytest.fixture
def claude(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a fake `claude` in front of PATH; its body runs before it answers."""

    def install(body: str = "") -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "claude"
        program.write_text(FAKE.format(python=sys.executable, body=body))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        return work

    return install


def test_claude_edits_in_its_folder_and_says_what_it_cost(claude) -> None:
    work = claude("pathlib.Path('prompt.md').write_text('better')")
    agent = ClaudeCodeAgent(model="opus", system="be careful", allowed_tools=["Bash", "Read"])
    (work / "prompt.md").write_text("good")
    context = AgentContext(
        folder=work,
        parameters=[PathParameter(work / "prompt.md")],
        system="stable",
        session_id="s-0",
    )
    result = agent.run("improve it", context)
    assert (work / "prompt.md").read_text() == "better"
    assert result.output == "done: improve it"
    assert (result.session_id, result.model) == ("s-1", "claude-opus-5-5")
    assert (result.input_tokens, result.output_tokens, result.tokens) == (16, 7, 23)
    assert result.cost_usd == 0.25
    assert result.seconds > 0
    seen = json.loads((work / "seen.json").read_text())
    assert seen["prompt"] == "improve it"
    assert seen["argv"] == [
        *["--print", "--allowedTools", "Bash", "Read", f"Edit(/{work}/prompt.md)"],
        *["--permission-mode", "default", "--output-format", "json", "--model", "opus"],
        *["--append-system-prompt", "be careful\n\nstable", "--resume", "s-0"],
    ]


def test_a_folder_is_allowed_by_its_pattern(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    context = AgentContext(parameters=[PathParameter(tmp_path / "rules", "**/*.md")])
    line = ClaudeCodeAgent().command_line(context)
    assert f"Edit(/{tmp_path}/rules/**/*.md)" in line
    assert not any(part.startswith(("Edit", "Write")) for part in ClaudeCodeAgent().allowed_tools)


def test_what_a_folder_is_called_is_no_pattern(tmp_path: Path) -> None:
    file = tmp_path / "[a] b*" / "c (1)?.md"
    file.parent.mkdir()
    file.touch()
    context = AgentContext(parameters=[PathParameter(file)])
    line = ClaudeCodeAgent().command_line(context)
    assert f"Edit(/{tmp_path}/\\[a\\] b\\*/c (1?\\?.md)" in line


def test_further_options_are_given_and_a_part_of_the_request(claude) -> None:
    work = claude()
    ClaudeCodeAgent(extra_args=["--bare", "--effort", "high"]).run("x", AgentContext(folder=work))
    seen = json.loads((work / "seen.json").read_text())["argv"]
    assert seen[:4] == ["--print", "--bare", "--effort", "high"]
    asked = ClaudeCodeAgent(extra_args=["--bare"])._asked("x", AgentContext())
    assert asked["arguments"] == ["--bare"]
    assert request_key(asked) != request_key(ClaudeCodeAgent()._asked("x", AgentContext()))


@pytest.mark.parametrize(
    ("given", "said", "hint"),
    [
        (["--model", "opus"], "ClaudeCodeAgent sets --model itself", "give the agent model="),
        (["--max-budget-usd=3"], "sets --max-budget-usd itself", "give the agent max_cost_usd="),
        (["-p"], "sets -p itself", "leave it out"),
        ("--bare --effort low", "extra_args is a list", r"write \['--bare', '--effort', 'low'\]"),
    ],
)
def test_options_that_it_sets_itself_are_refused(given, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        ClaudeCodeAgent(extra_args=given)
    assert re.search(hint, caught.value.hint)


def test_a_program_that_prints_without_end_is_ended_and_its_output_bounded(tmp_path: Path) -> None:
    endless = "import os, sys\nopen('child', 'w').write(str(os.getpid()))\n"
    endless += "while True: sys.stdout.write('x' * 65536)"
    # In a process of its own, whose largest size is this call's.
    call = (
        "import resource, sys\nfrom autopilot.ai import AgentContext, CommandAgent\n"
        "from autopilot.sandbox import programs\nprograms._ENDLESS >>= 3\n"
        "from autopilot.errors import AgentTimeoutError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: CommandAgent([sys.executable, '-c', sys.argv[1]], timeout_s=60).run('x')\n"
        "except AgentTimeoutError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", call, endless], cwd=tmp_path, capture_output=True, text=True
    )
    said, grown_kib = done.stdout.splitlines()
    assert said.endswith("wrote 128 MiB without an end and was ended")
    assert int(grown_kib) < 50_000, done.stderr
    assert _ended(int((tmp_path / "child").read_text()))


def test_it_can_be_awaited(claude) -> None:
    work = claude()
    result = asyncio.run(ClaudeCodeAgent().arun("hello", AgentContext(folder=work)))
    assert result.output == "done: hello"


def test_it_is_made_without_the_program_and_says_so_when_run(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    agent = ClaudeCodeAgent()
    with pytest.raises(AgentNotFoundError, match="claude is not installed") as caught:
        agent.run("hello")
    assert "npm install" in caught.value.hint


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("sys.stderr.write('no login\\n'); sys.exit(3)", AgentError, "code 3: no login"),
        ("print('Hello!'); sys.exit(0)", AgentReplyError, "other than JSON: Hello!"),
        ("print('[]'); sys.exit(0)", AgentReplyError, "other than JSON"),
        (
            "print(json.dumps({'result': 'no', 'stop_reason': 'refusal'})); sys.exit(0)",
            AgentRefusedError,
            "claude refused: no",
        ),
        (
            "print(json.dumps({'is_error': True, 'result': 'limit', 'subtype': 'error_turns'}));"
            " sys.exit(1)",
            AgentError,
            r"claude failed \(error_turns\): limit",
        ),
        (
            "print(json.dumps({'is_error': True, 'result': 'late', 'api_error_status': 529}));"
            " sys.exit(1)",
            ModelCallError,
            "claude: the service answered 529: late",
        ),
        (
            "print(json.dumps({'is_error': True, 'result': 'key', 'api_error_status': 401}));"
            " sys.exit(0)",
            KeyRefusedError,
            "claude: the service answered 401: key",
        ),
        (
            "print(json.dumps({'is_error': False, 'result': '', 'api_error_status': 529}));"
            " sys.exit(1)",
            AgentError,
            r"claude failed \(code 1\): it says no more",
        ),
        (
            "sys.stderr.write('no credit left\\n');"
            "print(json.dumps({'is_error': True, 'subtype': 'success'})); sys.exit(1)",
            AgentError,
            r"claude failed \(code 1\): no credit left",
        ),
        (
            "print(json.dumps({'is_error': True, 'subtype': 'error_during_execution',"
            " 'errors': ['no such tool', 'gave up']})); sys.exit(1)",
            AgentError,
            r"claude failed \(error_during_execution\): no such tool; gave up",
        ),
    ],
)
def test_each_failure_has_its_error_and_a_hint(claude, body, error, message) -> None:
    work = claude(body)
    with pytest.raises(error, match=message) as caught:
        ClaudeCodeAgent().run("hello", AgentContext(folder=work))
    assert type(caught.value) is error
    assert caught.value.hint


def test_a_timeout_ends_the_whole_process_group(claude) -> None:
    work = claude(
        "import subprocess, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path('child').write_text(str(child.pid))\n"
        "time.sleep(60)"
    )
    started = time.monotonic()
    with pytest.raises(AgentTimeoutError, match="within 1 s"):
        ClaudeCodeAgent(timeout_s=1).run("hello", AgentContext(folder=work))
    assert time.monotonic() - started < 50
    assert _ended(int((work / "child").read_text()))


def test_what_ignores_a_polite_end_is_killed(claude) -> None:
    work = claude(
        "import signal, time, os\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path('child').write_text(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    with pytest.raises(AgentTimeoutError):
        ClaudeCodeAgent(timeout_s=0.5).run("hello", AgentContext(folder=work))
    assert _ended(int((work / "child").read_text()))


def test_nothing_goes_on_after_a_good_end(claude) -> None:
    work = claude(
        "import subprocess\n"
        "quiet = subprocess.DEVNULL\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],\n"
        "    stdout=quiet, stderr=quiet, stdin=quiet)\n"
        "pathlib.Path('child').write_text(str(child.pid))"
    )
    ClaudeCodeAgent().run("hello", AgentContext(folder=work))
    assert _ended(int((work / "child").read_text()))


@pytest.mark.parametrize("leaves_the_group", [False, True])
def test_what_holds_the_outputs_open_is_not_waited_for(claude, leaves_the_group: bool) -> None:
    """A server that it started in the background, say; the answer is there all the same."""
    work = claude(
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(90)'],\n"
        f"    start_new_session={leaves_the_group})\n"
        "pathlib.Path('child').write_text(str(child.pid))\n"
        "print('ü' * 100_000)"
    )
    started = time.monotonic()
    result = CommandAgent(["claude"]).run("hello", AgentContext(folder=work))
    assert "ü" * 100_000 in result.output
    assert time.monotonic() - started < 80
    child = int((work / "child").read_text())
    if leaves_the_group:
        os.kill(child, signal.SIGKILL)
    assert leaves_the_group or _ended(child)


def test_a_key_in_the_output_of_a_failing_program_is_hidden(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SERVICE_API_KEY", "planted-secret-value")
    script = "import os, sys; sys.exit('bad key ' + os.environ['SERVICE_API_KEY'])"
    with pytest.raises(AgentError) as caught:
        CommandAgent([sys.executable, "-c", script]).run("x", AgentContext(folder=tmp_path))
    assert "planted-secret-value" not in f"{caught.value} {caught.value.hint}"
    assert "[hidden]" in str(caught.value)


def test_a_command_reads_the_prompt_from_stdin_or_from_a_file(tmp_path: Path) -> None:
    context = AgentContext(folder=tmp_path, system="first")
    copy = "import sys, pathlib; pathlib.Path('out').write_text({}); print('ok')"
    stdin = CommandAgent([sys.executable, "-c", copy.format("sys.stdin.read()")])
    assert stdin.run("then", context).output == "ok"
    assert (tmp_path / "out").read_text() == "first\n\nthen"
    read = copy.format("pathlib.Path(sys.argv[1]).read_text() + '!'")
    by_file = CommandAgent([sys.executable, "-c", read, "{prompt_file}"])
    result = by_file.run("then", context)
    assert (tmp_path / "out").read_text() == "first\n\nthen!"
    assert result.cost_usd is None


def test_a_command_is_a_list() -> None:
    with pytest.raises(ValueError, match="a list of the program"):
        CommandAgent("aider --yes")


def test_a_context_names_the_editable_files(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "a.md").write_text("a")
    (tmp_path / "rules" / "b.txt").write_text("b")
    context = AgentContext(parameters=[PathParameter(tmp_path / "rules", "*.md")])
    assert context.files == [tmp_path / "rules" / "a.md"]


def _ended(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_shell_line_that_fails_is_named_by_its_line() -> None:
    for line, how in (("exit 3", "ended with code 3"), ("kill -9 $$", "was ended by signal 9")):
        with pytest.raises(AgentError, match=re.escape(f"`{line}` {how}")):
            CommandAgent(["sh", "-c", line]).run("improve it")
