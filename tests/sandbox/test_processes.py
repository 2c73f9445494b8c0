"""Child processes: answers in frames, time limits, and nothing left running."""

import sys
import threading
import time
from pathlib import Path

import pytest

from autopilot.errors import AgentError, AgentNotFoundError, AgentTimeoutError, EvaluationError
from autopilot.sandbox.processes import (
    Processes,
    adopt,
    end_adopted,
    end_marked,
    mark,
)
from autopilot.sandbox.programs import run_process

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def run(code, folder=None, timeout_s=20.0, stdin=""):
    command = [sys.executable, "-c", code]
    return run_process(command, stdin=stdin, folder=folder, timeout_s=timeout_s, hint="install it")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def has_ended(pid):
    """Whether it ends; a process that is killed takes a moment to be gone."""
    until_s = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < until_s:
        time.sleep(0.01)
    return not is_running(pid)


def test_a_program_reads_and_writes(tmp_path):
    code = "import os, sys; print(os.getcwd(), input()); sys.exit('no luck')"
    finished = run(code, tmp_path, stdin="hello\n")
    assert (finished.stdout, finished.code) == (f"{tmp_path} hello\n", 1)
    assert finished.tail() == "no luck"
    assert finished.seconds > 0


def test_what_a_program_wrote_has_no_secrets(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "correct-horse-battery")
    finished = run("import os; print(os.environ['MY_TOKEN'])")
    assert "correct-horse" not in finished.stdout
    assert run("pass").tail() == "it wrote nothing"


def test_a_program_that_cannot_be_run_is_named(tmp_path):
    ask = {"stdin": "", "timeout_s": 1, "hint": "install it"}
    with pytest.raises(AgentNotFoundError, match="no-such-program") as caught:
        run_process(["no-such-program"], folder=tmp_path, **ask)
    assert caught.value.hint == "install it"
    with pytest.raises(AgentError, match="gone does not exist"):
        run_process([sys.executable], folder=tmp_path / "gone", **ask)
    script = tmp_path / "data"
    for text, mode, said, hint in (
        ("x", 0o644, "Permission denied", f"make it executable: chmod +x {script}"),
        ("x", 0o755, "Exec format error", "let its first line name its interpreter"),
        ("#!/no/such", 0o755, "no such interpreter", "correct that line"),
    ):
        script.write_text(text)
        script.chmod(mode)
        with pytest.raises(AgentNotFoundError, match=f"cannot start {script}: .*{said}") as caught:
            run_process([str(script)], folder=tmp_path, **ask)
        assert caught.value.hint.startswith(hint)


LOUD = """\
import re, sys
from autopilot.sandbox.programs import run_process

code = '''import sys
for stream in (sys.stdout, sys.stderr):
    print("first", file=stream)
    for _ in range(300):
        stream.write("x" * (1 << 20))
    print("last", file=stream)
'''
done = run_process([sys.executable, "-c", code], stdin="", folder=None, timeout_s=60, hint="")
for text in (done.stdout, done.stderr):
    print(text[:9], text[-8:], len(text), text.count("[... 314048523 bytes left out ...]"))
# Not ru_maxrss, which a program inherits from who started it.
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""


@linux
def test_of_much_output_beginning_and_end_are_kept_and_memory_is_bounded():
    done = run(LOUD, timeout_s=60)
    assert done.code == 0, done
    lines = done.stdout.splitlines()
    assert lines[:-1] == ["first", "xxx xxxlast", " 524324 1"] * 2
    assert int(lines[-1]) < 100


@linux
def test_who_left_the_group_and_writes_without_end_keeps_no_one(tmp_path):
    pid = tmp_path / "pid"
    code = (
        "import os, sys\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    open({str(pid)!r}, 'w').write(str(os.getpid()))\n"
        "    while True: print('x' * 1000)\n"
        f"while not os.path.exists({str(pid)!r}): pass\n"
    )
    started = time.monotonic()
    assert run(code, timeout_s=200).code == 0
    assert time.monotonic() - started < 100
    # Its next line meets a closed pipe.
    assert has_ended(int(pid.read_text()))


@linux
@pytest.mark.parametrize("ends", [True, False])
def test_what_a_program_started_is_ended_with_it(tmp_path, ends):
    pid = tmp_path / "pid"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
    )
    if ends:
        assert run(code).code == 0
    else:
        with pytest.raises(AgentTimeoutError, match=r"within 0\.5 s"):
            run(code + "time.sleep(60)", timeout_s=0.5)
    assert has_ended(int(pid.read_text()))


@linux
def test_without_adoption_who_left_the_group_is_found_by_its_mark(tmp_path, monkeypatch):
    """Where a process cannot adopt orphans, they are init's, and only the mark tells of them."""
    (name, value), pids = *mark(tmp_path).items(), tmp_path / "pids"
    monkeypatch.setenv(name, value)
    run(
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        f"print(child.pid, file=open({str(pids)!r}, 'w'))\n"
    )
    left = int(pids.read_text())
    assert is_running(left)
    monkeypatch.delenv(name)
    end_marked(tmp_path)
    assert has_ended(left)


@linux
def test_who_left_the_group_is_found_by_its_mark_or_its_parent(tmp_path, monkeypatch):
    (name, value), pids = *mark(tmp_path).items(), tmp_path / "pids"
    monkeypatch.setenv(name, value)
    code = (
        "import subprocess\n"
        "for environment in (None, {}):\n"
        "    child = subprocess.Popen(['sleep', '60'], start_new_session=True, env=environment)\n"
        f"    print(child.pid, file=open({str(pids)!r}, 'a'))\n"
    )
    since = adopt(is_on=True)
    try:
        run(code)
        marked, unmarked = map(int, pids.read_text().split())
        assert is_running(marked) and is_running(unmarked)
        monkeypatch.delenv(name)
        end_marked(tmp_path / "other")
        assert is_running(marked)
        end_marked(tmp_path)
        assert has_ended(marked) and is_running(unmarked)
        end_adopted(since)
        assert has_ended(unmarked)
    finally:
        adopt(is_on=False)


WORKER = """\
import os
import sys
import time
from autopilot.sandbox.processes import answer_with

def answer(request, send, asker):
    print("printed")
    if request == b"fail":
        sys.exit(3)
    if request.startswith(b"daemon"):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                with open("daemon.pid", "w") as file:
                    file.write(str(os.getpid()))
                time.sleep(60)
            os._exit(0)
        while not os.path.exists("daemon.pid"):
            time.sleep(0.01)
        if request.endswith(b"exit"):
            os._exit(3)
    for number in range(3):
        send(b"%b %d" % (request, number))
    if request == b"wait":
        time.sleep(60)

answer_with(answer)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / "a_worker.py").write_text(WORKER)
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    return tmp_path


def test_a_process_of_python_answers_in_frames(worker, capfd):
    answers = list(Processes().ask("a_worker", b"hi\n\0", worker))
    assert answers == [b"hi\n\0 0", b"hi\n\0 1", b"hi\n\0 2"]
    assert capfd.readouterr().err == "printed\n"


def test_a_process_that_ends_too_early_is_an_error(worker):
    with pytest.raises(EvaluationError, match="ended with exit code 3"):
        list(Processes().ask("a_worker", b"fail", worker))


@pytest.mark.parametrize("request_", [b"daemon", b"daemon exit"])
def test_a_daemon_that_holds_the_pipe_is_not_waited_for(worker, request_):
    started = time.monotonic()
    if request_.endswith(b"exit"):
        with pytest.raises(EvaluationError, match="ended with exit code 3"):
            list(Processes().ask("a_worker", request_, worker))
    else:
        assert len(list(Processes().ask("a_worker", request_, worker))) == 3
    assert time.monotonic() - started < 20
    # It emptied nothing, left the session, and is ended all the same.
    assert not Path(f"/proc/{(worker / 'daemon.pid').read_text()}").exists()


def test_processes_are_stopped_from_another_thread(worker):
    processes = Processes()
    answers = processes.ask("a_worker", b"wait", worker)
    assert [next(answers) for _ in range(3)][-1] == b"wait 2"
    started = time.monotonic()
    threading.Timer(0.1, processes.stop).start()
    with pytest.raises(EvaluationError, match="was ended"):
        next(answers)
    assert time.monotonic() - started < 20
    with pytest.raises(EvaluationError, match="was ended"):
        next(processes.ask("a_worker", b"again", worker))


SHARING = """\
import os, time
held = b"x" * (100 << 20)
for _ in range(5):
    if os.fork() == 0:
        break
print(flush=True)
time.sleep(60)
"""


WATCHED = f"""\
import os, signal, subprocess, sys
from autopilot.sandbox.processes import MemoryWatch

watch = MemoryWatch()
assert not watch.is_over(1 << 40)
command = [sys.executable, "-c", {SHARING!r}]
process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
try:
    for _ in range(6):
        process.stdout.readline()
    # Six times 100 MiB are mapped.
    assert not watch.is_over(400 << 20)
    assert watch.is_over(90 << 20)
    assert not watch.is_over(1 << 40)
    assert watch.pause_s >= 0.2
finally:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
assert not watch.is_over(1 << 20)
"""


@linux
def test_memory_that_processes_share_counts_once():
    done = run(WATCHED, timeout_s=60)
    assert done.code == 0, done
