"""Supervision: positions in shared memory, and children that die."""

from __future__ import annotations

import math
import os
import signal
import time

import pytest
from forks import run_alone

from autopilot.core.progress import Position
from autopilot.engine.board import Board
from autopilot.engine.supervisor import interruptible


def test_a_board_tells_another_process_where_the_child_is() -> None:
    board, position = Board(), Position("val", 3, 2, 1, 7, is_running=True)
    assert board.code is None and board.slug == "" and board.overdue_s() < 0
    pid = os.fork()
    if pid == 0:
        board.claim()
        board.opened("levels-1", time.monotonic() - 20)
        board.at(position)
        board.hear()
        board.end(5)
        os._exit(0)
    os.waitpid(pid, 0)
    assert (board.slug, board.position, board.code, board.heard) == ("levels-1", position, 5, 1)
    assert board.past_deadline_s() > 20
    assert board.overdue_s() <= 0  # its batch began just now, and has some time
    board.epochs_over(30)
    assert -36 < board.overdue_s() < -34  # a test batch has the time budget anew
    board.epochs_over(math.inf)
    assert board.overdue_s() == -math.inf


def test_only_the_child_itself_is_heard() -> None:
    board = Board()
    board.claim()
    if (pid := os.fork()) == 0:
        board.end(9)
        board.hear()
        os._exit(0)
    os.waitpid(pid, 0)
    assert board.code is None and board.heard == 0


DYING = """
import os, signal
from autopilot.core.progress import Position
from autopilot.engine.board import Observer
from autopilot.engine.supervisor import Supervisor

position = Position("val", 1, 0, 0, 2, is_running=True)

def work(child):
    if child.is_first:
        child.board.opened("own", float("inf"))
        child.board.at(position)
        os.kill(os.getpid(), signal.SIGUSR1)
    told = [(death.position == position, "SIGUSR1" in death.reason) for death in child.deaths]
    return 7 if told == [(True, True)] and child.slug == "own" else 1

class Deaths(Observer):
    def died(self, death):
        positions.append(death.position)

positions = []
code = Supervisor(work, Deaths()).run()
assert positions == [position]
raise SystemExit(code)
"""


def test_the_next_child_knows_how_the_one_before_died() -> None:
    done = run_alone(DYING)
    assert done.returncode == 7, done.stderr


BESIDE = """
import os, time
import autopilot.engine.supervisor as supervisor
from autopilot.engine.board import Observer

supervisor._BESIDE_S = 0.0

class Works(Observer):
    pid = 0
    def beside(self, before, slug):
        self.pid = before or os.posix_spawnp("sleep", ["sleep", "60"], os.environ, setsid=True)
        return self.pid

def work(child):
    time.sleep(0.6)  # the parent looks meanwhile
    child.board.opened("own", float("inf"))
    return os._exit(1) if child.is_first else 7

works = Works()
code = supervisor.Supervisor(work, works).run()
os.kill(works.pid, 15)
assert os.waitpid(works.pid, 0) == (works.pid, 15)  # until now, it went on
raise SystemExit(code)
"""


def test_work_beside_the_children_outlives_them() -> None:
    done = run_alone(BESIDE)
    assert done.returncode == 7, done.stderr


EARLY = """
import os
from autopilot.engine.board import Observer
from autopilot.engine.supervisor import Supervisor
from autopilot.errors import EvaluationError

try:
    Supervisor(lambda child: os._exit(3), Observer()).run()
except EvaluationError as error:
    print(error.message)
"""


def test_a_death_before_the_experiment_is_open_is_an_error() -> None:
    assert "exit code 3" in run_alone(EARLY).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_before_the_work_has_begun(number: signal.Signals) -> None:
    code = f"""
import os, sys
from autopilot.engine.board import Observer
from autopilot.engine.supervisor import Supervisor

sys.exit(Supervisor(lambda child: os.kill(os.getpid(), {int(number)}), Observer()).run())
"""
    done = run_alone(code)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_termination_is_an_interrupt_within_the_body() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


# The parent reads late, and the line comes in two parts.
ABSENT = """\
import os, select, sys, time
from autopilot.engine.child_output import ChildOutput

if sys.argv[1:]:
    os.dup2(os.openpty()[1], 2)
output = ChildOutput()
if (pid := os.fork()) == 0:
    output.take_over()
    for part in (b"x" * 9, b"\\ncat: a/b: No such file or di", b"rectory\\n", b"other\\n"):
        os.write(2, part)
        time.sleep(0.02)
    print(repr(output.absent()))
    sys.stdout.flush()
    os._exit(0)
output.started()
while output.reader >= 0 and not os.waitpid(pid, os.WNOHANG)[0]:
    time.sleep(0.03)
    output.relay()
"""


@pytest.mark.parametrize("terminal", [[], ["terminal"]])
def test_lines_on_absent_files_are_known_although_the_parent_reads_late(terminal):
    done = run_alone(ABSENT, *terminal)
    assert done.stdout == "'cat: a/b: No such file or directory\\n'\n", done
