"""What a daemon leaves behind when a plugin's C code does not return and it has to abort.

Nothing in Python can interrupt C code, and C code that keeps the interpreter's lock keeps
Python's threads from running as well.  So the end is the kernel's: an interval timer of CPU
time, wound up again by the watchdog thread as long as that runs, whose signal dumps all
stacks and kills.  Which device's hook ran stands in a page that outlives the process:

    CONTROL.hooks    per VM the number of the device whose hook runs, 0 for none; then all names
    CONTROL.stacks   the stacks: if there are any, the predecessor did not end by itself

The successor begins with that device in quarantine, and with both files anew.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import signal
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from attrs import define, frozen

PAGE: Final = mmap.PAGESIZE
WIDTH: Final = 2
"""Bytes of a device's number."""
MAX_STACKS: Final = 64 << 10
"""Bytes that a successor reads."""


@frozen
class LastWords:
    """A predecessor's: what ran, by VM and device, and all stacks."""

    running: tuple[tuple[str, str], ...]
    stacks: str


@define(eq=False)
class DeadManSwitch:
    """A dead man's switch: this process's last words, should there be any."""

    page: mmap.mmap
    stacks: int
    """The descriptor of the stacks' file."""
    patience_s: float
    """CPU time for which the watchdog may not come to run."""

    def running(self, number: int) -> memoryview:
        """The place of the machine of that number, in the order of the names."""
        return memoryview(self.page)[number * WIDTH :].cast("H")

    def wind_up(self) -> None:
        """The watchdog runs, and the core does."""
        signal.setitimer(signal.ITIMER_PROF, self.patience_s)

    def rest(self) -> None:
        """The core does not run."""
        signal.setitimer(signal.ITIMER_PROF, 0)

    def abort(self) -> NoReturn:
        """The watchdog runs, and a hook does not end."""
        faulthandler.dump_traceback(self.stacks)
        os.abort()


def read(control: Path) -> LastWords | None:
    """The last words of the predecessor that served `control`; None if it needed none."""
    try:
        stacks = _beside(control, "stacks").read_bytes()[:MAX_STACKS].decode(errors="replace")
        data = _beside(control, "hooks").read_bytes()
    except OSError:
        return None  # there was none, or it left nothing that is ours to read
    if not stacks:
        return None
    try:
        names: Mapping[str, Sequence[str]] = json.loads(data[PAGE:])
        numbers = struct.unpack_from(f"={len(names)}H", data)
        running = [(vm, names[vm][number - 1]) for vm, number in zip(names, numbers, strict=True) if number]
    except (ValueError, IndexError, struct.error):
        running = []  # it did not even come to write it
    return LastWords(tuple(running), stacks)


def write(control: Path, names: Mapping[str, Sequence[str]], patience_s: float) -> DeadManSwitch:
    """Begin anew, and have stacks dumped should this process hang.

    Args:
        control: the path of the control socket: the files lie beside it.
        names: the devices of each VM, in the order of their numbers, which begin at 1.
        patience_s: see `DeadManSwitch`.

    Raises:
        OSError: the files cannot be written.
    """
    with _beside(control, "hooks").open("w+b") as file:
        file.write(bytes(PAGE) + json.dumps(names).encode())
        file.flush()
        page = mmap.mmap(file.fileno(), PAGE)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
    stacks = os.open(_beside(control, "stacks"), flags, 0o600)
    faulthandler.register(signal.SIGPROF, stacks, all_threads=True, chain=True)
    return DeadManSwitch(page, stacks, patience_s)


def _beside(control: Path, name: str) -> Path:
    return control.with_name(f"{control.name}.{name}")
