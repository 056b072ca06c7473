"""Services and streams as a device sees them: numbers, replies, room."""

from __future__ import annotations

import pytest

from mmiod.device import Device, Effect, Requests, Stream
from mmiod.testing import Harness


class Asker(Device):
    """Asks one service and keeps the answers."""

    length = 1
    disk = Requests({"read": Effect.IDEMPOTENT, "erase": Effect.AT_MOST_ONCE})
    serial = Stream()
    seen: list[tuple[int, object]]

    def on_reset(self) -> None:
        """Nothing seen."""
        self.seen = []

    @disk.on_reply
    def _replied(self, number: int, data: bytes) -> None:
        self.seen.append((number, data))

    @disk.on_failure
    def _failed(self, number: int, reason: str) -> None:
        self.seen.append((number, reason))

    @serial.room
    def _room(self) -> int:
        return 3 - len(self.seen)


def test_requests_are_numbered_and_numbers_never_come_back() -> None:
    """A reset does not begin anew: a late reply must not be taken for another one's."""
    asker = Harness(Asker)
    assert [1, 2] == [asker.device.disk.send("read", b"a"), asker.device.disk.send("erase")]
    asker.device.reset()
    assert 3 == asker.device.disk.send("read")
    assert [("disk", 1, "read", b"a"), ("disk", 2, "erase", b""), ("disk", 3, "read", b"")] == (
        asker.context.asked
    )


def test_answers_come_with_their_number() -> None:
    """A reply or a failure, each by its hook."""
    asker = Harness(Asker)
    asker.reply("disk", 1, b"data")
    asker.fail("disk", 2, "no such disk")
    assert [(1, b"data"), (2, "no such disk")] == asker.device.seen


def test_unknown_request_is_the_authors_mistake() -> None:
    """Only declared kinds, whose effect is known, can be sent."""
    with pytest.raises(ValueError, match="disk: 'format' is no request; there are read, erase"):
        Harness(Asker).device.disk.send("format")


def test_room_is_asked_and_readiness_told() -> None:
    """What a backend needs to know of a slow device."""
    asker = Harness(Asker)
    assert 3 == asker.room("serial")
    asker.context.readied.clear()
    asker.device.serial.ready()
    asker.device.disk.cancel(7)
    assert (["serial"], [("disk", 7)]) == (asker.context.readied, asker.context.cancelled)
