"""The floors: the same messages between two C programs, of which one does nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from attrs import frozen

from bench.contest import Contestant
from bench.programs import client, compiled, spawn

ALL: Final = ("C, seqpacket", "C, stream", "C, shared memory")
SEQPACKET, STREAM, SPIN = ALL
SPIN_LENGTH: Final = 4096


@frozen
class Floor:
    """A ping-pong over a socket, with the sizes of what stands beside it."""

    name: str
    kind: socket.SocketKind
    request: int
    reply: int


FLOORS: Final = (
    Floor(SEQPACKET, socket.SOCK_SEQPACKET, 72, 56),  # EXIT_DECODED and VALUES
    Floor(STREAM, socket.SOCK_STREAM, 32, 36),  # VFIO_USER_REGION_READ of 4 bytes
)


def contestants(stack: ExitStack, directory: Path) -> Iterator[Contestant]:
    """Every floor, each with a client of its own."""
    server, peers = compiled("echo", directory), compiled("peers", directory)
    for floor in FLOORS:
        near, far = socket.socketpair(socket.AF_UNIX, floor.kind)
        with near, far:
            echo = spawn(stack, [str(server), "socket"], stdin=far.fileno())
            argument = f"floor=echo:{near.fileno()}:{floor.request}:{floor.reply}"
            line = client(stack, peers, argument, pass_fds=[near.fileno()])
        yield Contestant(floor.name, echo, line, "floor")
    memory = os.memfd_create("spin")
    os.ftruncate(memory, SPIN_LENGTH)
    spinner = spawn(stack, [str(server), "spin"], stdin=memory)
    line = client(stack, peers, f"floor=spin:{memory}", pass_fds=[memory])
    os.close(memory)
    yield Contestant(SPIN, spinner, line, "floor", spins=True)
