"""Sockets that systemd passes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmiod.service.activation import passed_sockets

ROOT = Path(__file__).parents[2]

SCRIPT = """
import os, sys
from mmiod.service.activation import passed_sockets
found = passed_sockets()
left = sorted(name for name in os.environ if name.startswith("LISTEN"))
for name, sockets in sorted(found.items()):
    for passed in sockets:
        print(name, passed.getsockname(), passed.type.name, os.get_inheritable(passed.fileno()), left)
sys.stdout.flush()
peer, _ = found["control"][0].accept()
peer.sendall(b"hello")
"""


def _is_open(number: int) -> bool:
    """Whether this process, which may have run thousands of tests, has such a descriptor."""
    return Path(f"/proc/self/fd/{number}").is_symlink()


@pytest.fixture
def descriptors() -> Iterator[int]:
    """Two adjacent open sockets, as systemd would leave them; the first one's number."""
    pair = socket.socketpair()
    low = next(low for low in range(200, 1000) if not (_is_open(low) or _is_open(low + 1)))
    for number, end in enumerate(pair, low):
        os.dup2(end.fileno(), number)
        end.close()
    yield low
    for number in (low, low + 1):
        with socket.socket(fileno=os.dup(number)):
            os.close(number)


def environment(**changes: str) -> dict[str, str]:
    """What systemd sets for two sockets."""
    given = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "control:hypervisor", "LISTEN_PID": str(os.getpid())}
    return given | changes


def test_sockets_come_by_name(descriptors: int) -> None:
    """Each descriptor becomes a socket under the unit's FileDescriptorName=; the variables are gone."""
    variables = environment()

    found = passed_sockets(variables, first=descriptors)

    numbers = {name: [passed.detach() for passed in sockets] for name, sockets in found.items()}
    assert {"control": [descriptors], "hypervisor": [descriptors + 1]} == numbers
    assert {} == variables
    assert [False, False] == [os.get_inheritable(number) for number in (descriptors, descriptors + 1)]


def test_equal_and_missing_names(descriptors: int) -> None:
    """Several sockets may share a name; without LISTEN_FDNAMES all are `unknown`."""
    shared = passed_sockets(environment(LISTEN_FDNAMES="vm:vm"), first=descriptors)
    assert [descriptors, descriptors + 1] == [passed.detach() for passed in shared["vm"]]

    variables = environment()
    del variables["LISTEN_FDNAMES"]
    unnamed = passed_sockets(variables, first=descriptors)
    assert [descriptors, descriptors + 1] == [passed.detach() for passed in unnamed["unknown"]]


def test_sockets_of_another_process_are_left() -> None:
    """LISTEN_PID says for whom they are; the variables go anyway."""
    variables = environment(LISTEN_PID="1")

    assert {} == passed_sockets(variables)
    assert {} == variables
    assert {} == passed_sockets({})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"LISTEN_FDS": "two"}, "LISTEN_FDS=two: a number of descriptors was expected"),
        ({"LISTEN_FDS": "3"}, "LISTEN_FDNAMES=control:hypervisor: 3 names were expected"),
    ],
)
def test_bad_environment_is_refused(changes: dict[str, str], message: str) -> None:
    """Variables that contradict each other are an error that names them."""
    with pytest.raises(ValueError, match=message):
        passed_sockets(environment(**changes))


def test_what_is_no_socket_is_refused() -> None:
    """A file where a socket should be is the manager's mistake and ours to report."""
    with Path("/dev/null").open("rb") as file, pytest.raises(OSError, match="Socket operation on non-socket"):
        passed_sockets(environment(LISTEN_FDS="1", LISTEN_FDNAMES="control"), first=file.fileno())


@pytest.mark.needs("systemd")
def test_systemd_agrees(tmp_path: Path) -> None:
    """`systemd-socket-activate` passes two sockets; we find them by name and can serve on them."""
    paths = [tmp_path / "control", tmp_path / "vm0"]
    listen = [word for path in paths for word in ("-l", str(path))]
    command = ["systemd-socket-activate", *listen, "--fdname=control:vm0", "-E", "PYTHONPATH"]
    process = subprocess.Popen(
        [*command, sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        with connected(paths[0]) as client:
            assert b"hello" == client.recv(16)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()

    expected = [f"{path.name} {path} SOCK_STREAM False []" for path in paths]
    assert expected == output.decode().splitlines()


def connected(path: Path) -> socket.socket:
    """Connect as soon as somebody listens, for a minute."""
    end = time.monotonic() + 60
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            assert time.monotonic() < end
            os.sched_yield()
        else:
            return client
