"""The 16550A keeps 16 characters; its backend keeps the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from devices.legacy.uart16550 import Uart16550
from mmiod.core.backends.faces import Place
from mmiod.core.gate import ShortWay
from mmiod.core.ports import Signal
from mmiod.core.wiring import choose, connect
from mmiod.device.uart16550 import FCR, LSR
from mmiod.machine.backoff import FIRST_NS, MAX_ATTEMPTS
from mmiod.machine.description import DeviceDescription
from mmiod.machine.restart import restart
from mmiod.values import READ, WRITE
from tests.machine.machines import Rig


@pytest.mark.parametrize("fcr", [0, FCR.FIFO_ENABLE])
@pytest.mark.parametrize("failures", [(), (1, 100, 101, 700)], ids=["", "quarantines"])
async def test_paste_arrives_whole(tmp_path: Path, fcr: int, failures: tuple[int, ...]) -> None:
    """Without FIFOs and with: in order, nothing lost, no overrun, however slowly it is read.

    Nor when the device fails on the way, and the rest comes while it is in quarantine.
    """
    data = bytes(range(256)) * 8
    rig = Rig({"uart": (Uart16550, DeviceDescription("legacy/uart16550"))})
    host, changed = rig.machine.hosts["uart"], Signal()
    host.access("ports", 2, 1, WRITE, fcr)

    async def inject(action: Callable[[], None]) -> None:
        action()
        changed.set()

    def tell(event: str, **facts: object) -> None:
        rig.events.append((event, facts))
        changed.set()

    rig.machine.notify = tell
    task = connect(
        rig.machine,
        "uart",
        choose(Uart16550, Place("vm", "uart", "", tmp_path), {"serial": "unix:serial"}),
        inject,
        ShortWay(trio.lowlevel.current_trio_token().run_sync_soon, lambda _action: False),
    )
    received, seen = bytearray(), 0
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task.run)
            while not rig.events:
                await changed.wait()
            client = await trio.open_unix_socket(str(tmp_path / "serial"))
            nursery.start_soon(client.send_all, data)
            while len(received) < len(data):
                status = host.access("ports", 5, 1, READ, 0)
                assert isinstance(status, int)
                seen |= status
                if status & LSR.DR:
                    character = host.access("ports", 0, 1, READ, 0)
                    assert isinstance(character, int)
                    received.append(character)
                    if len(received) in failures:
                        host.access("ports", 7, 1, WRITE, 0)  # what it fails at is not given again
                        host.quarantine(RuntimeError("on the way"))
                        await trio.testing.wait_all_tasks_blocked(0.01)  # bytes come, and wait
                        assert 0 == host.room("serial")
                        rig.now += FIRST_NS << MAX_ATTEMPTS
                        restart(rig.machine, *rig.machine.backoff.ready())
                else:
                    await changed.wait()
            await client.aclose()
            nursery.cancel_scope.cancel()
    assert [event for event, _ in rig.events] == [
        "backend_opened",
        *["device_quarantined", "device_restarted"] * len(failures),
    ]
    assert data == received
    assert not seen & LSR.OE
