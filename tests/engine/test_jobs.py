"""Items of a batch in processes of their own: results, deaths, limits and errors."""

from __future__ import annotations

import json

import pytest
from forks import run_alone

ITEMS = """
import json, os, signal, sys, time
from pathlib import Path
from autopilot import Datum, Module
from autopilot.core.failures import Failures
from autopilot.core.progress import Death
from autopilot.engine.fresh import ItemLimits
from autopilot.engine.jobs import ForkedJobs

log, last, found = Path(sys.argv[1]), sys.argv[2], {}


def evaluate(number):
    with log.open("a") as begun:
        begun.write(f"{number} ")
    if number == 1:
        print("the reason", flush=True)
        os._exit(3)
    if number == 2:
        time.sleep(600)
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 5:
        raise ValueError("mine") if last == "raises" else KeyboardInterrupt
    return Datum(id=str(number), metadata={"pid": os.getpid()}), (Failures(), [], [])


def finished(number, result):
    is_death = isinstance(result, Death)
    found[number] = result.reason if is_death else result[0].metadata["pid"] != os.getpid()


jobs = ForkedJobs(ItemLimits(item_timeout_s=1.5, jobs=2), Module(), ())
try:
    jobs.run(range(6) if last else range(5), evaluate, finished)
except ValueError as error:
    found["raised"] = str(error)
try:
    found["left"] = os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    found["left"] = None
print(json.dumps([found, sorted(log.read_text().split())]))
"""


@pytest.mark.parametrize("last", ["", "raises", "interrupts"])
def test_an_item_that_dies_hangs_or_raises_costs_itself_alone(tmp_path, last: str) -> None:
    done = run_alone(ITEMS, str(tmp_path / "log"), last)

    assert done.returncode == 0, done.stderr
    found, begun = json.loads(done.stdout.splitlines()[-1])
    assert found["0"] is found["4"] is True and found["left"] is None
    assert "exit code 3" in found["1"] and "no result within 1.5 s" in found["2"]
    assert "SIGKILL" in found["3"]  # a kill may come from outside: it is tried once more
    assert begun == sorted("012334" + "5" * bool(last))
    assert found.get("raised") == ("mine" if last == "raises" else None)
    assert found.get("5") == ("the evaluation interrupted itself" if last == "interrupts" else None)
