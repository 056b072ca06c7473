"""`mmioctl attach`: a terminal on a device's stream, by the Unix socket that is its backend."""

from __future__ import annotations

import os
import select
import socket
import stat
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mmiod.ctl.client import Object

ESCAPE: Final = b"\x1d"
"""Ctrl-]"""
CHUNK: Final = 4096


class NotAttachable(Exception):
    """There is no such stream, or nothing to connect to; the message says what there is."""


def locate(answer: Object, wanted: str) -> tuple[str, str]:
    """Name and socket of the stream [VM/]DEVICE[.STREAM], in a reply of ListDevices."""
    streams = [
        (f"{device['vm']}/{device['name']}.{backend['name']}", backend)
        for device in answer["devices"]
        for backend in device["backends"]
    ]
    named = [(name, backend) for name, backend in streams if wanted in _names(name)]
    if len(named) != 1:
        known = ", ".join(name for name, _ in named or streams) or "none"
        raise NotAttachable(f"{wanted} is not one stream that has a backend; there are: {known}")
    ((name, backend),) = named
    path = backend["where"]
    if path is None or not Path(path).exists() or not stat.S_ISSOCK(Path(path).stat().st_mode):
        there = f", which is at {path}" if path else ""
        raise NotAttachable(
            f'{name} has backend "{backend["backend"]}"{there}: only unix:PATH can be attached'
        )
    return name, path


def _names(stream: str) -> set[str]:
    """What a stream may be called."""
    vm, _, rest = stream.rpartition("/")
    device = rest.partition(".")[0]
    return {stream, rest, device, f"{vm}/{device}"}


def attach(name: str, path: str) -> bool:
    """Join terminal and stream until Ctrl-] or the far end; whether it was we who ended it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.connect(path)
        print(f"attached to {name}; Ctrl-] ends", file=sys.stderr, flush=True)
        with _raw(sys.stdin.fileno()):
            return _join(stream, sys.stdin.fileno(), sys.stdout.fileno())


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """A terminal without echo, lines and signals; what is no terminal stays as it is."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _join(stream: socket.socket, source: int, sink: int) -> bool:
    watched: list[int | socket.socket] = [stream, source]
    while True:
        ready, _, _ = select.select(watched, (), ())
        if stream in ready:
            data = stream.recv(CHUNK)
            if not data:
                return False
            _write(sink, data)
        if source in ready:
            typed = os.read(source, CHUNK)
            if not typed:
                watched.remove(source)  # what is piped in has ended; the stream goes on
            before, escape, _ = typed.partition(ESCAPE)
            stream.sendall(before)
            if escape:
                return True


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
