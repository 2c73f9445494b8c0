"""A run without Python, as a real process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from server import KEY, edit, say_json

from autopilot.command.options import TaskOptions
from autopilot.errors import UsageError

if TYPE_CHECKING:
    from tests.command.conftest import Bench
    from tests.conftest import Serve


def test_a_script_and_an_agent_are_a_run(bench: Bench) -> None:
    place = bench.place
    prompt = place.cache.parent / "prompt"
    place.write("goal.md", "Make it quick.\n")
    place.change("agent.sh", ("cat > /dev/null", f"cat > {prompt}; echo x >> bench.sh"))

    with place.untouched():
        done = bench.run(2, goal="@goal.md")

    assert done.code == 0, done
    assert "measured by `sh bench.sh`, no train / ? val items" in done.out
    assert "best: epoch 2, val seconds 10.000 -> 8.000 (lower is better), no test split" in done.out
    assert place.git("show", "autopilot/bench-1:speed.txt") == "8"
    # The agent is told what to reach, and sees what was printed; what else it edits is put back.
    told = prompt.read_text()
    assert "## Goal\n\nMake it quick.\n\n" in told
    assert "What counts is seconds on the val split: lower is better." in told
    assert "seconds: 9" in told
    assert place.git("diff", "--name-only", "main", "autopilot/bench-1") == "speed.txt"
    assert "changed bench.sh: put back" in place.git("log", "autopilot/bench-1")
    place.call("propose", "create", "bench-1")
    often = ("--repeats", "2", "--confidence", "0.5")
    verified = place.autopilot("propose", "verify", "bench-1", *often)
    assert "10.000  8.000  -2.000" in verified.out and "the claim holds" in verified.out, verified
    status, table = place.call("status", "bench-1").out, place.call("experiment", "list").out
    assert "target      sh bench.sh" in status and "sh bench.sh" in table
    assert "start sh bench.sh" in place.git("log", "--format=%s", "autopilot/bench-1")


def test_a_model_of_any_provider_edits_by_its_name(
    bench: Bench, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = say_json({"strategy": "lower", "summary": "lower it to 9"})
    server = serve([edit("create", path="speed.txt", file_text="9"), done])
    monkeypatch.setenv("OPENAI_API_BASE", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    ran = bench.run(agent="litellm", model="openai/my-own")

    assert ran.code == 0, ran
    assert bench.place.git("show", "autopilot/bench-1:speed.txt") == "9"
    assert [r.body["model"] for r in server.requests] == ["my-own"] * 2
    assert {r.headers["authorization"] for r in server.requests} == {f"Bearer {KEY}"}
    calls = bench.place.notes("bench-1", "llm")
    assert [(call["role"], call["model"]) for call in calls] == [("optimizer", "my-own")] * 2
    refused = bench.run(agent="litellm")
    assert "needs a model" in refused.error and "--model PROVIDER/MODEL" in refused.hint


def test_everything_stands_in_the_manifest(bench: Bench) -> None:
    place, home = bench.place, bench.place.cache.parent
    place.write(
        "bench.sh",
        f'echo "$AUTOPILOT_SPLIT" >> {home}/splits\n'
        'test -e prepared && echo "seconds: $(($(cat speed.txt) + EXTRA + NEEDED))"\n',
    )
    place.write(".gitignore", "prepared\n")
    place.commit()
    options = {
        "train_eval": "sh bench.sh",
        "test_eval": "sh bench.sh",
        "guard": f"echo >> {home}/guards; test $(cat speed.txt) -ne 9",
        "setup": f"echo >> {home}/setups; touch prepared",
        "env": ["EXTRA=0", "NEEDED"],
        "repeat": "2",
    }

    missing = bench.run(**options)
    done = place.autopilot(*bench.options(**options), NEEDED="0")

    assert (missing.error, missing.code) == ("error: the variable NEEDED is not set", 2)
    assert done.code == 0, done
    rejected = place.judged("bench-1")[1]
    assert any(
        "guard `echo" in why and "failed: ended with exit code 1" in why
        for why in rejected["reasons"]
    )
    # The guard ran once a state, however often that is measured; setup once a worktree.
    assert _count(home / "guards") == 2 and _count(home / "setups") == 1
    assert (home / "splits").read_text().split() == ["val", "val", "train", "test"]
    assert "test 10.000" in done.out

    resumed = place.autopilot("resume", "bench-1", "--max-epochs", "2", NEEDED="0")
    replayed = place.autopilot("replay", "bench-1", "--level", "full", NEEDED="0")
    differs = place.autopilot("replay", "bench-1", NEEDED="3")

    assert resumed.code == 0, resumed
    assert place.verdicts("bench-1") == ["baseline", "rejected", "rejected"]
    assert replayed.code == 0 and "3 epochs came out as recorded" in replayed.out, replayed
    # What a note, perhaps of somebody else's, makes it run stands before what came of it.
    table = replayed.out.index("\nepoch ")
    assert all(
        -1 < replayed.out.find(f"runs --{name.replace('_', '-')}: {options[name]}\n") < table
        for name in ("setup", "guard", "eval", "test_eval")
        if name in options
    ), replayed
    assert differs.code == 1 and "$NEEDED has another value here" in differs.out, differs
    # Once in each worktree: of the run, of the resumed run, and of each replay.
    assert _count(home / "setups") == 4


def _count(path: Path) -> int:
    return len(path.read_text().splitlines())


ITEMS = """\
n=$(cat speed.txt)
ok=$(test $n -lt 10 && echo true || echo false)
echo "{\\"items\\": [{\\"id\\": \\"a\\", \\"success\\": $ok, \
\\"input\\": \\"2+2\\", \\"output\\": \\"$n\\", \\"expected\\": \\"4\\"}, \
{\\"id\\": \\"b\\", \\"success\\": true}]}"
"""


def test_items_have_statistics_and_traces(bench: Bench) -> None:
    bench.place.write("bench.sh", ITEMS)
    bench.place.commit()

    done = bench.run(metric=None, mode=None)

    assert "val accuracy 0.500 -> 1.000" in done.out, done
    trace = bench.place.call("trace", "inspect", "bench-1", "a")
    assert "baseline  failed" in trace.out and "output: 9" in trace.out
    gradients = bench.place.notes("bench-1", "gradients")
    assert 'expected "4", got "10"' in str(gradients)


def test_a_noisy_number_is_measured_five_times_and_replays_within_a_tolerance(bench: Bench) -> None:
    place = bench.place
    place.write(
        "bench.sh",
        "n=$(od -An -N1 -tu1 /dev/urandom)\n"
        'echo "seconds: $(cat speed.txt).$((1000 + n))"\necho "milliseconds: $((n + 5))"\n',
    )
    place.commit()

    done = bench.run()

    assert done.code == 0, done
    assert "val: 5 measurements differ by" in done.out
    assert place.verdicts("bench-1") == ["baseline", "kept"]
    # The agent is asked the same, whatever was measured this time.
    close = "--tolerance", "seconds=0.05", "--tolerance", "milliseconds=60"
    full = place.autopilot("replay", "bench-1", "--level", "full", *close)
    assert full.code == 0, full
    assert place.autopilot("replay", "bench-1").code == 0  # no number is compared: all are noise


def test_a_run_is_written_as_a_module_with_the_same_results(bench: Bench) -> None:
    place = bench.place
    place.write("c.json", '{"n": 50, "deep": {"kind": "a"}}\n')
    place.write("bench.sh", 'echo "seconds: $(($(cat speed.txt) + $(tr -dc 0-9 < c.json)))"\n')
    place.commit()
    options = {
        "edit": ["*.txt", "bench.sh"],
        "protect": "x.txt",
        "tune": ["c.json:n=1..64:log", "c.json:deep.kind=a|b"],
        "guard": "test -e 'c.json'",
        "goal": 'be "so" fast',
        "env": "A='b c'",
    }

    options |= {"seed": "3", "item_timeout": "60"}
    written = bench.run(2, **options, write="optimize.py")
    first = bench.run(2, **options)

    lines = written.out.splitlines()
    assert lines[0].startswith("optimize.py is the same run"), written
    assert lines[2] == "  autopilot run optimize.py --max-epochs 2 --item-timeout 60.0 --seed 3"
    text = place.read("optimize.py")
    assert len(text.splitlines()) < 40
    assert 'self.edit = PathParameter(".", "*.txt:!x.txt")' in text
    # ruff is a tool of the developers: not where only the tests' packages are.
    ruff = shutil.which("ruff", path=Path(sys.executable).parent)
    for check in (["format", "--check"], ["check", "--select=I,F,E"]) if ruff else ():
        command = [str(ruff), *check, "--isolated", "optimize.py"]
        done = subprocess.run(command, cwd=place.top, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    place.commit()
    second = place.autopilot(*lines[2].split()[1:])
    assert (first.code, second.code) == (0, 0), (first, second)
    assert [r["metrics"] for r in place.judged("bench-1")] == [
        r["metrics"] for r in place.judged("optimize-1")
    ]
    changed = ("diff", "autopilot/bench-1", "autopilot/optimize-1", "--name-only")
    assert place.git(*changed) == "optimize.py"


@pytest.mark.parametrize(
    ("options", "says", "hint"),
    [
        ({"eval": "nosuchprogram"}, "`nosuchprogram` was not found (exit code 127)", "install the"),
        (
            {"eval": "sleep 9", "item_timeout": "0.2"},
            "`sleep 9` did not end within 0.2 s",
            "more time with --item-timeout",
        ),
        ({"eval": "echo hello; echo you"}, "no metric 'seconds', but: hello | you", "METRIC sec"),
        ({"guard": "echo red; false"}, "guard `echo red; false` failed", "as they are"),
        ({"setup": "echo no; exit 4"}, "failed: ended with exit code 4: no", "new clone"),
        (
            {"eval": "echo >> agent.sh; echo seconds: 1"},
            "changed the tracked file agent.sh",
            "untracked",
        ),
        ({"edit": ".", "eval": "echo > new"}, "changed a file that is edited, new", "--protect"),
        ({"eval": "echo seconds: 1 >&2"}, "'seconds', but on stderr: seconds: 1", "METRIC sec"),
        ({"mode": None}, "whether a higher or a lower 'seconds' is better", "--mode min"),
        ({"env": "NO_SUCH_NAME"}, "the variable NO_SUCH_NAME is not set", "export"),
        ({"edit": "x/**", "protect": "x"}, "nothing is left of --edit x/**", "protect less"),
        ({"edit": ["*.txt", "speed.txt"]}, "overlap: both have speed.txt", "leave one"),
    ],
)
def test_a_baseline_that_cannot_be_measured_stops_the_run(
    bench: Bench, options: dict[str, str | list[str] | None], says: str, hint: str
) -> None:
    wrong_usage = not {"eval", "guard", "setup"} & options.keys()
    code = 2 if wrong_usage else 1
    bench.place.refused(*bench.options(**options), says=(says,), hints=(hint,), code=code)


def test_an_agent_that_is_missing_ends_the_run_at_once(bench: Bench) -> None:
    done = bench.run(9, agent="cmd:nosuchagent --fast")

    assert done.code == 1 and "nosuchagent: not found" in done.error, done
    assert bench.place.verdicts("bench-1") == ["baseline"]


@pytest.mark.parametrize(
    ("options", "says", "hint"),
    [
        ({"eval": "true"}, "--eval needs --edit or --tune", "--edit"),
        ({"edit": ["a"]}, "--edit needs --eval", "the command that measures"),
        ({"edit": ["a"], "eval": "true"}, "--edit needs --agent", "claude-code"),
        (
            {"tune": ["a:b=1..2"], "eval": "true", "agent": "cmd:x"},
            "--agent is of no use",
            "leave out --agent",
        ),
        ({"edit": ["a"], "eval": "true", "agent": "gpt"}, "--agent 'gpt': there is none", "cmd:"),
        ({"edit": ["a"], "eval": "true", "agent": "cmd:x", "model": "m"}, "--model is for", ""),
        ({"edit": ["a"], "eval": "true", "val_eval": "x", "agent": "cmd:x"}, "the same split", ""),
        (
            {"edit": ["a"], "eval": "true", "agent": "cmd:x", "env": ["API_KEY=abcdefgh1"]},
            "--env API_KEY holds a secret",
            "--env NAME",
        ),
        (
            {"edit": ["a"], "eval": "x --key sk-ant-api03-abcdefghijklmnop1", "agent": "cmd:x"},
            "--eval holds a secret",
            "environment variable",
        ),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, options: dict[str, str], says: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        TaskOptions(**options).hparams(tmp_path)  # type: ignore[arg-type]  # texts and lists

    assert says in caught.value.message and hint in (caught.value.hint or "")


def test_a_target_and_a_command_are_two_runs(bench: Bench) -> None:
    place = bench.place
    words = bench.options()

    for more, says, hint in (
        (["counter.py"], "TARGET counter.py and --edit", "leave one of them out"),
        (["--monitor", "x"], "--monitor and --edit", "--metric NAME"),
    ):
        place.refused(*words, *more, says=(says,), hints=(hint,), code=2)


@pytest.mark.parametrize(
    ("command", "stem"),
    [
        ("python bench.py --fast", "bench"),
        ("PYTHONPATH=. python3 -m pkg.perf.bench", "pkg.perf.bench"),
        ("cd x && ./run_it.sh", "run_it"),
        ("pytest -q", "pytest"),
        ("make 'Größe'", "make"),
        ("python Prüfstände.py", "prufstande"),
        ("'", "run"),
    ],
)
def test_the_experiment_is_called_after_the_command(command: str, stem: str) -> None:
    assert TaskOptions(eval=command).stem() == stem


def test_a_look_before_the_run_names_commands_and_who_edits(bench: Bench) -> None:
    looked = bench.place.autopilot(*bench.options(guard="true"), "--dry-run")

    for line in (
        "  optimize speed.txt (files: 1)",
        "  measure val by: sh bench.sh",
        "  before val is measured: true",
        "  edited by: cmd:sh agent.sh",
        "  begin with an item: not evaluated in a dry run: it runs a command",
    ):
        assert line in looked.out.splitlines(), looked
    words = ["optimize", "preflight", *bench.options(max_epochs=None)[1:]]
    checked = bench.place.autopilot(*words)
    for line in (
        "ok       command: measure val by: sh bench.sh",
        "ok       command: edited by: cmd:sh agent.sh",
        "ok       monitor: val seconds decides: lower is better",
    ):
        assert line in checked.out.splitlines(), checked
    assert "an epoch: about 1 evaluations" in checked.out
    assert bench.place.git("branch", "--list", "autopilot/*") == ""


def test_in_place_a_command_that_changes_another_file_ends_the_run(bench: Bench) -> None:
    place = bench.place
    place.write("data.txt", "data\n")
    place.write(
        "bench.sh",
        'n=$(cat speed.txt); echo "seconds: $n"\n'
        "test $n = 9 && test ! -e once || exit 0\n"
        "touch once; echo 5 > speed.txt; echo new > data.txt\n",
    )
    place.commit()
    place.write("agent.sh", place.read("agent.sh") + "# not committed\n")

    done = place.autopilot(*bench.options(), "--in-place")

    assert done.code == 1, done
    assert done.error.endswith(
        "`sh bench.sh` changed the tracked file data.txt and 1 more, or you did"
    )
    assert "undo that, or stash it, and resume the run" in done.hint
    # What it has measured since is of no state: the epoch has no verdict.
    assert place.verdicts("bench-1") == ["baseline"]
    assert (place.read("speed.txt"), place.read("data.txt")) == ("9\n", "new\n")
    place.write("data.txt", "data\n")
    again = place.autopilot("resume", "bench-1")
    assert again.code == 0 and place.verdicts("bench-1") == ["baseline", "kept"], again


def test_full_paths_are_recorded_from_the_working_folder_on(tmp_path: Path) -> None:
    given = TaskOptions(eval="x", agent="cmd:x", edit=[f"{tmp_path}/src/*.py", "b"])
    tuned = replace(given, tune=[f"{tmp_path}/a b.toml:size=1..9", "c.toml:x=a|b"])

    found = TaskOptions.of(tuned.hparams(tmp_path))

    assert found.edit == ["src/*.py", "b"]
    assert found.tune == ["a b.toml:size=1..9", "c.toml:x=a|b"]
