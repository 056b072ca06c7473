"""A device task comes to rest and goes on, and what it leaves is a document and descriptors."""

from __future__ import annotations

from pathlib import Path

import trio

from tests.core.backends import PATIENCE_S, Bench, serving

TURNS = 50


def sent(bench: Bench, data: bytes) -> None:
    """The device sends."""
    bench.device.serial.send(data)


async def read(stream: trio.SocketStream, count: int) -> bytes:
    """So many bytes."""
    data = b""
    with trio.fail_after(PATIENCE_S):
        while len(data) < count:
            data += await stream.receive_some(count - len(data))
    return data


async def test_rests_lose_nothing_of_a_stream(tmp_path: Path) -> None:
    """Bytes are sent before, during and after each rest, both ways."""
    async with serving(tmp_path, serial="unix:serial") as bench:
        await bench.until(lambda: "backend_opened" in bench.events)
        async with await trio.open_unix_socket(str(tmp_path / "serial")) as stream:
            expected = b""
            for turn in range(TURNS):
                for part in range(3):
                    piece = b"%d.%d " % (turn, part)
                    expected += piece
                    sent(bench, piece)
                    if part == 1:
                        await stream.send_all(piece)
                        await bench.task.rest()
                bench.task.go_on()
            assert expected == await read(stream, len(expected))
            told = b"".join(b"%d.1 " % turn for turn in range(TURNS))
            await bench.until(lambda: len(bench.device.received) == len(told))
            assert told == bench.device.received
        assert 0 == bench.rig.machine.backends["dev", "serial"].status.lost
