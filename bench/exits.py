"""The exit protocol, on its socket and through slots: decoded and raw exits, posted writes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.contest import Contestant
from bench.programs import MACHINE, Line, client, compiled, start_daemon, vm
from mmiod import compiled as hot_path

DECODED, RAW, POSTED = "mmiod, decoded exit", "mmiod, raw exit", "mmiod, posted write"
SLOT_DECODED, SLOT_HOOKED, SLOT_RAW, SLOT_POSTED, PUBLISHED = (
    "mmiod, slots, decoded exit",
    "mmiod, slots, decoded exit to a hook",
    "mmiod, slots, raw exit",
    "mmiod, slots, posted write",
    "mmiod, slots, published read",
)
SLEEPER: Final = "mmiod, slots, decoded exit, client sleeps"
SPIN: Final = 1 << 16
"""Looks at a slot: more than the daemon's answers take, so that this client does not sleep."""
PURE: Final = "mmiod, slots, decoded exit, all of it Python"
ISOLATED: Final = "mmiod, decoded exit, device in a process"
APART: Final = f"""\
extends = "{MACHINE.name}"
[devices.testdev]
isolation = "process"
"""


def contestants(stack: ExitStack, directory: Path) -> Iterator[Contestant]:
    """A daemon with a VM for each client; of a posted write what counts is what the vCPU waits."""
    folder = directory / "exits"
    folder.mkdir()
    shutil.copy(MACHINE, folder)
    apart = folder / "apart.toml"
    apart.write_text(APART)
    vms = [*(vm(folder, name) for name in ("socket", "slots", "sleeper")), vm(folder, "apart", apart)]
    daemon = start_daemon(stack, folder, vms)

    def dial(name: str, *options: str) -> Line:
        return client(stack, compiled("client", directory), str(folder / f"{name}.exit"), name, *options)

    line = dial("socket")
    for name, command in ((DECODED, "decoded"), (RAW, "raw"), (POSTED, "posted")):
        yield Contestant(name, daemon, line, command)
    line = dial("slots", str(SPIN))
    by_slot = {
        SLOT_DECODED: "decoded",
        SLOT_HOOKED: "hooked",
        SLOT_RAW: "raw",
        SLOT_POSTED: "posted",
        PUBLISHED: "published",
    }
    for name, command in by_slot.items():
        yield Contestant(name, daemon, line, command, spins=True)
    yield Contestant(SLEEPER, daemon, dial("sleeper", "0"), "decoded")
    yield Contestant(ISOLATED, daemon, dial("apart"), "decoded")
    if hot_path.made() is not None:
        yield _pure(stack, directory)


def _pure(stack: ExitStack, directory: Path) -> Contestant:
    """What it costs where nobody has compiled the hot path."""
    folder = directory / "pure"
    folder.mkdir()
    daemon = start_daemon(stack, folder, [vm(folder, "slots")], environment={"MMIOD_PURE": "1"})
    line = client(stack, compiled("client", directory), str(folder / "slots.exit"), "slots", str(SPIN))
    return Contestant(PURE, daemon, line, "decoded", spins=True)
