"""Eventfds that block: rung, left as they are, and never a reason to wait."""

from __future__ import annotations

import os
import select
import struct
import threading
from pathlib import Path

from mmiod.attach.bell import MAX_WAITING, Bell
from tests.attach import functions as f
from tests.attach.functions import Functions, attached, serving
from tests.attach.sample import SampleFunction

FULL = (1 << 64) - 2
PATIENCE_S = 20


def rung(eventfd: int) -> bool:
    """Wait until it is, but not for ever."""
    return bool(select.select([eventfd], [], [], PATIENCE_S)[0])


async def test_an_eventfd_that_blocks_stays_so(tmp_path: Path) -> None:
    """Its client sleeps in `read`: libvfio-user's sample client does."""
    made = Functions(tmp_path, {"sample": SampleFunction})
    eventfd = os.eventfd(0, os.EFD_CLOEXEC)
    async with serving(made), attached(made, "sample") as client:
        await client.set_irqs(0, f.EVENTFD_TRIGGER, 0, 1, eventfd)
        await client.set_irqs(0, f.NONE_TRIGGER, 0, 1)
        assert rung(eventfd)
        assert 1 == os.eventfd_read(eventfd)
        assert os.get_blocking(eventfd)
        assert b"\xad\xde" == await client.read(7, 0, 2)
    os.close(eventfd)


async def test_a_full_one_does_not_stop_the_daemon(tmp_path: Path) -> None:
    """Its client is answered; nobody has to empty it for that."""
    made = Functions(tmp_path, {"sample": SampleFunction})
    eventfd = os.eventfd(0, os.EFD_CLOEXEC)
    os.write(eventfd, struct.pack("<Q", FULL))
    emptied: list[int] = []
    over = threading.Event()

    def rescue() -> None:
        if not over.wait(PATIENCE_S):
            emptied.append(os.eventfd_read(eventfd))

    rescuer = threading.Thread(target=rescue)
    rescuer.start()
    async with serving(made), attached(made, "sample") as client:
        await client.set_irqs(0, f.EVENTFD_TRIGGER, 0, 1, eventfd)
        await client.set_irqs(0, f.NONE_TRIGGER, 0, 1)
        assert b"\xad\xde" == await client.read(7, 0, 2)
    over.set()
    rescuer.join()
    assert not emptied
    assert FULL == os.eventfd_read(eventfd)
    assert rung(eventfd)
    os.close(eventfd)


def test_a_full_one_holds_nobody_up() -> None:
    """Not who rings, and not another function's."""
    full, other = os.eventfd(0, os.EFD_CLOEXEC), os.eventfd(0, os.EFD_CLOEXEC)
    os.write(full, struct.pack("<Q", FULL))
    stuck, free = Bell(), Bell()
    for _ in range(2 * MAX_WAITING):
        stuck.ring(full)
    free.ring(other)
    assert rung(other)
    assert FULL == os.eventfd_read(full)
    assert rung(full)
    for bell in (stuck, free):
        bell.close()
    for eventfd in (full, other):
        os.close(eventfd)
