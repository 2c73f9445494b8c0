"""autopilot.sandbox.offline: what an evaluation may not reach."""

import socket
import subprocess
import sys

import pytest

from autopilot.errors import NetworkRefusedError
from autopilot.sandbox.offline import Offline


@pytest.fixture
def offline(request):
    guard = Offline(programs=getattr(request, "param", False))
    guard.begin()
    yield guard
    guard.end()


def test_connections_and_look_ups_are_refused(offline):
    with socket.socket() as here, pytest.raises(NetworkRefusedError, match=r"192\.0\.2\.1:80"):
        here.connect(("192.0.2.1", 80))
    with pytest.raises(NetworkRefusedError, match=r"looks up example\.org"):
        socket.getaddrinfo("example.org", 443)
    assert offline.refused == ["connects to 192.0.2.1:80", "looks up example.org"]
    with pytest.raises(NetworkRefusedError, match=r"192\.0\.2\.1"):
        offline.check()


def test_what_stays_on_the_machine_is_let_through(offline, tmp_path):
    with socket.socket(socket.AF_UNIX) as here, pytest.raises(FileNotFoundError):
        here.connect(str(tmp_path / "socket"))
    assert socket.getaddrinfo("127.0.0.1", 80)
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    offline.check()


@pytest.mark.parametrize("offline", [True], indirect=True)
def test_programs_are_refused_where_that_is_asked_for(offline):
    with pytest.raises(NetworkRefusedError, match="starts"):
        subprocess.run([sys.executable, "-c", "pass"], check=True)


def test_nothing_is_refused_afterwards():
    guard = Offline()
    guard.begin()
    guard.end()
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
    guard.check()
