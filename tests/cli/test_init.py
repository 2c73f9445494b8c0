"""`autopilot init`: what it sees, asks and writes, and the runs of what it wrote."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, Place

TICKETS = {
    "delivery": ["where is my parcel", "the courier never came", "parcel lost by the courier"],
    "invoice": ["the invoice is wrong", "I paid twice", "send the invoice again, I paid"],
}
ROWS = [
    {"text": f"{greeting} {text}", "label": label}
    for greeting in ("hello,", "good day,", "hi,", "dear all,")
    for label, texts in TICKETS.items()
    for text in texts
]
# Answers sums, in a sentence until the prompt asks for the number alone; and edits that prompt.
AGENT = """\
import json, re, sys
from pathlib import Path

asked = sys.stdin.read()
if "What you may edit" in asked:
    Path("prompt.md").write_text("Answer with the number alone: {question}\\n")
    print(json.dumps({"strategy": "form", "summary": "ask for the number alone"}))
else:
    total = sum(map(int, re.findall(r"\\d+", asked)))
    print(total if "alone" in asked else f"It is {total}.")
"""

# Counts the steps of a sum, in steps that settings.toml and work.py decide.
BENCH = """\
import tomllib
from pathlib import Path

from work import total

size = tomllib.loads(Path("settings.toml").read_text())["chunk"]["size"]
steps = []
assert total(range(64), size, steps) == 2016
print("steps:", len(steps) + abs(size - 100))
print("METRIC chunks=%d" % size)
"""
WORK = """\
LIMIT = 3.5


def total(numbers, size, steps):
    found = 0
    for number in numbers:
        steps.append(number)
        found += number
    return found
"""
# Edits work.py: one step is enough.
WORKER = """\
from pathlib import Path

head = Path("work.py").read_text().split("    found")[0]
Path("work.py").write_text(head + "    steps.append(1)\\n    return sum(numbers)\\n")
print('{"strategy": "use sum", "summary": "let sum do it", "rationale": "it is one step"}')
"""


@pytest.fixture
def repo(place: Place) -> Place:
    """A repository with a README and no commit of anything that could be optimized."""
    place.git("rm", "--quiet", "counter.py", "x.txt")
    place.write("README.md", "You are here.\n")
    place.commit("readme")
    return place


def run_next(place: Place, document: dict, *options: str) -> dict:
    """Types the next commands that init has printed; the document of the run."""
    commit, run = document["next"]
    subprocess.run(["sh", "-c", commit], cwd=place.top, check=True, capture_output=True)
    assert run == f"autopilot run {document['file']}"
    assert document["text"].count("\n") < 60
    # ruff is a tool of the developers: not where only the tests' packages are.
    if ruff := shutil.which("ruff", path=Path(sys.executable).parent):
        checks = [ruff, "format", "--no-cache", "--isolated", "--diff", document["file"]]
        done = subprocess.run(checks, cwd=place.top, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    return place.run("run", document["file"], "--json", *options).document


def answer(place: Place, *answers: str) -> str:
    """What init prints on a terminal where a person types the answers."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "init"], cwd=place.top, stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    os.write(leader, "".join(f"{text}\n" for text in answers).encode())
    shown = b""
    try:
        while part := os.read(leader, 4096):
            shown += part
    except OSError:  # how Linux says that all have closed it
        pass
    os.close(leader)
    assert process.wait(30) == 0, shown.decode()
    return shown.decode().replace("\r\n", "\n")


def test_rules_learn_from_the_data_that_is_there(repo: Place) -> None:
    lines = [f"{row['label']};{row['text']}" for row in ROWS]
    repo.write("data/tickets.csv", "\n".join(["label;text", *lines, ""]))
    repo.write(".venv/lib/bench.py", "print('score: 1')\n")
    repo.write("rules.txt", "# who gets a ticket\ndelivery = hello\ninvoice = dear good\n")
    repo.commit("data")
    with repo.untouched():
        dry = repo.run("init", "--kind", "rules", "--dry-run")
    assert "class Sorter" in dry.out and not (repo.top / "optimize.py").exists()
    document = repo.run("init", "--kind", "rules", "--json").document
    assert document["written"] == ["optimize.py"] and 'split("=", 1)' in document["text"]
    assert document["seen"]["data"] == ["data/tickets.csv (text -> label)"]
    assert document["seen"]["prints a number"] == []
    assert repo.git("status", "--porcelain") == "?? optimize.py"
    result = run_next(repo, document, "--max-epochs", "8")
    assert result["baseline"] <= 0.5 and result["best"] == 1.0
    assert result["test"]["after"] == 1.0


def test_without_data_a_sample_is_written_that_improves(repo: Place) -> None:
    document = repo.run("init", "--kind", "rules", "--json").document
    assert document["written"] == ["optimize.py", "messages.jsonl", "rules.txt"]
    result = run_next(repo, document, "--max-epochs", "12")
    assert (result["baseline"], result["kept"] >= 4) == (0.0, True)
    assert result["best"] >= 0.7 and result["test"]["after"] >= 0.5
    refused = repo.refused(
        "init", "--kind", "class", says=("is there already",), hints=("--force",), code=2
    )
    assert "optimize.py" in refused.error
    repo.run("init", "--kind", "class", "--force")
    assert "class Sizes" in repo.read("optimize.py")


def test_a_prompt_is_improved_by_a_program(repo: Place) -> None:
    items = [{"question": f"{n} + {n + 1}", "answer": str(2 * n + 1)} for n in range(6)]
    repo.write("prompt.md", "Answer this: {question}\n")
    repo.write("sums.jsonl", "".join(f"{json.dumps(item)}\n" for item in items))
    repo.write("agent.py", AGENT)
    command = ("init", "--kind", "prompt", "--agent", "cmd:python3 agent.py")
    done = repo.run(*command)
    assert "git add agent.py" not in done.out
    document = repo.run(*command, "--force", "--json").document
    assert "git add optimize.py agent.py prompt.md sums.jsonl" in document["next"][0]
    result = run_next(repo, document, "--max-epochs", "1")
    assert (result["baseline"], result["best"], result["kept"]) == (0.0, 1.0, 1)


def test_a_person_is_asked_and_each_answer_is_checked_at_once(repo: Place) -> None:
    repo.write("tickets.jsonl", "".join(f"{json.dumps(row)}\n" for row in ROWS))
    shown = answer(repo, "9", "", "tickets.json", "README.md", "")
    assert "which kind of system [rules]: '9' is no kind; they are: command," in shown
    assert "tickets.json: no such file; name a file that git tracks" in shown
    assert "README.md has no rows with a text and a label" in shown
    assert "wrote optimize.py, rules.txt" in shown
    assert shown.count("]: ") == 5 and "git add optimize.py rules.txt tickets.jsonl" in shown


def test_without_a_terminal_the_missing_option_is_named(repo: Place) -> None:
    repo.write("tickets.jsonl", "".join(f"{json.dumps(row)}\n" for row in ROWS))
    refused = repo.refused
    refused(
        "init", says=("--kind is missing: which kind of system",), hints=("--kind rules",), code=2
    )
    refused("init", "--tune", "a.toml:x=1..2", says=("--kind",), hints=("--kind numbers",), code=2)
    refused(
        "init", "--kind", "prompt", "--agent", "me", says=("--edit",), hints=("prompt.md",), code=2
    )
    odd = ("init", "--kind", "rules", "--agent", "anthropic")
    refused(
        *odd, says=("--agent does not go with --kind rules",), hints=("--data, --edit",), code=2
    )
    refused("init", "start.txt", says=("no Python file",), hints=("optimize.py",), code=2)
    refused(
        "init", "no/optimize.py", "--kind", "class", says=("no folder",), hints=("make it",), code=2
    )
    with_none = ("init", "--kind", "rules", "--data", "README.md")
    refused(*with_none, says=("no rows with a text and a label",), hints=('"label"',), code=2)


def test_outside_of_git_in_an_empty_repository_and_in_a_folder_of_one(
    repo: Place, tmp_path: Path
) -> None:
    place = Place(tmp_path / "empty", repo.cache)
    done = place.autopilot("init", "--kind", "class")
    assert done.code == 1 and "not in a git repository" in done.error and "git init" in done.hint
    place.init()
    assert run_next(place, place.run("init", "--kind", "class", "--json").document)["best"] == 1.0
    below = repo.write("part/rules.txt", "spam: prize\n").parent
    document = repo.run("init", "--kind", "class", "--json", cwd=below).document
    assert document["seen"]["rules"] == ["rules.txt"]
    assert sorted(os.listdir(below)) == ["optimize.py", "rules.txt", "threshold.txt"]


def test_numbers_are_asked_for_and_searched(repo: Place) -> None:
    repo.write("settings.toml", "[chunk]\nsize = 32  # numbers at a time\n")
    repo.write("work.py", WORK)
    repo.write("bench.py", BENCH)
    repo.commit("work")
    shown = answer(repo, "", "python3 none.py", "python3 bench.py", "rounds", "1", "1 min", "")
    assert "prints a number: python" in shown and "settings.toml:chunk.size = 32" in shown
    assert "[numbers]" in shown and "none.py" in shown and "  2 chunks = 32" in shown
    assert "no metric 'rounds'; it prints steps, chunks" in shown
    assert "no direction; steps min if less is better, or steps max" in shown
    assert "[settings.toml:chunk.size=8..128:log]" in shown
    *_, commit, run = map(str.strip, shown.strip().splitlines())
    document = {"next": [commit, run], "text": repo.read("optimize.py"), "file": "optimize.py"}
    result = run_next(repo, document, "--max-epochs", "5")
    assert result["baseline"] == 64 + 68 and result["best"] < 128 and result["kept"] >= 1


def test_a_command_measures_what_an_agent_edits(repo: Place) -> None:
    repo.write("settings.toml", "[chunk]\nsize = 32\n")
    repo.write("work.py", WORK)
    repo.write("bench.py", BENCH)
    repo.write("agent.py", WORKER)
    own = ("init", "--kind", "command", "--eval", "python3 bench.py")
    wrong = {"code": 2}
    repo.refused(
        *own, "--metric", "steps", says=("--edit is missing",), hints=("work.py",), **wrong
    )
    own = (*own, "--metric", "steps", "--mode", "min")
    repo.refused(*own, "--edit", "none.py", says=("none.py",), hints=("",), code=1)
    code = ("--edit", "*.py:!work.py", "--agent", "anthropic", "--dry-run")
    assert "bench.py measures, and may be edited" in repo.run(*own, *code).out
    own = (*own, "--edit", "work.py")
    repo.refused(*own, says=("--agent is missing",), hints=("cmd:",), **wrong)
    document = repo.run(*own, "--agent", "cmd:python3 agent.py", "--json").document
    assert "git add optimize.py agent.py bench.py settings.toml work.py" in document["next"][0]
    result = run_next(repo, document, "--max-epochs", "1")
    assert (result["baseline"], result["best"], result["kept"]) == (132.0, 69.0, 1)
