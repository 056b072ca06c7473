"""What tests of whole systems have in common."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmiod.core.backends import own_thread
from mmiod.core.backends.image import Image
from mmiod.core.backends.own_thread import OwnThread
from mmiod.core.ports import RequestQueue
from tests.functional.boots import ROOT
from tests.functional.stock import Asked

CONFIG = """\
[daemon]
control = "{directory}/control"
log_level = "error"
[[vm]]
name = "vm"
machine = "{machine}"
socket = "{directory}/vm.exit"
"""

DISK_S = 0.01
"""A seek."""


@pytest.fixture(scope="module")
def exit_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """That of the bundled PC in a daemon; the client waits until it is there."""
    directory = tmp_path_factory.mktemp("daemon")
    config = directory / "mmiod.toml"
    config.write_text(CONFIG.format(directory=directory, machine=ROOT / "config" / "machines" / "pc.toml"))
    with subprocess.Popen([sys.executable, "-m", "mmiod", "serve", "--config", str(config)]) as daemon:
        yield directory / "vm.exit"
        alive = daemon.poll() is None
        daemon.terminate()
    assert alive


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What images of a daemon in this process are asked for."""
    found, ask = Asked(), RequestQueue.ask

    def noted(queue: RequestQueue, number: int, kind: str, data: bytes) -> None:
        found.note(queue, kind)
        ask(queue, number, kind, data)

    monkeypatch.setattr(RequestQueue, "ask", noted)
    return found


@pytest.fixture
def slow_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images on a disk that takes its time: the core does no request at once."""
    begin = OwnThread.begin

    def slow(thread: OwnThread, call: Callable[[], bytes]) -> None:
        def late() -> bytes:
            time.sleep(DISK_S)  # noqa: TID251 - it is in the image's thread
            return call()

        begin(thread, late)

    monkeypatch.setattr(Image, "quick", frozenset())
    monkeypatch.setattr(own_thread, "PATIENCE_NS", 0)
    monkeypatch.setattr(OwnThread, "begin", slow)
