"""The machine that stands for the recorded one: its file, and itself in this process with what it publishes.

It has a server's devices where QEMU's Q35 has them, as far as there are such; its chipset is
another one.  Functions of the Q35 that we have no device for are test functions: it is their header
that a boot accesses.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from attrs import define, field

from bench.boot.trace import Access
from bench.programs import ROOT
from mmiod.config import Config, VmConfig
from mmiod.daemon import build
from mmiod.machine.address_map import Policy
from mmiod.machine.machine import Machine
from mmiod.protocol.exit import shared
from mmiod.values import WRITE, Access as Exit, Space
from mmiod.vmm.published import View, Way
from mmiod.vmm.slot import PUBLISHED_BYTES, Slot

FILE: Final = """\
extends = "pc.toml"

[devices.ecam]
plugin = "pci/ecam"
at = { configuration = "mmio:0xb0000000" }

[devices.lpc]
plugin = "pci/testdev"
slot = "00:1f.0"

[devices.ahci]
plugin = "pci/testdev"
slot = "00:1f.2"

[devices.smbus]
plugin = "pci/testdev"
slot = "00:1f.3"

[devices.tpm]
plugin = "tpm/crb"
at = { localities = "mmio:0xfed40000" }

[devices.hpet]
plugin = "legacy/hpet"
at = { general = "mmio:0xfed00000", comparators = "mmio:0xfed00100" }

[[unclaimed]]  # the AHCI's registers: they have no effect that a boot without disks sees
space = "mmio"
base = 0xfebff000
length = 0x1000
policy = "ignore"
"""
PORTS: Final = 1 << 16
PM: Final = 1 << 15 | 3 << 12
PLACED: Final = ((PM | 0x40, 4, 0x601), (PM | 0x80, 1, 1))
"""Writes to configuration space that put the PM ports of 00:01.3 where a Q35 has them: PMBA, PMREGMISC."""
_WORD: Final = 8


def machine_file(folder: Path) -> Path:
    """Write it."""
    shutil.copy(ROOT / "config" / "machines" / "pc.toml", folder)
    path = folder / "server.toml"
    path.write_text(FILE)
    return path


def space_of(access: Access) -> Space:
    """Ports are where memory has RAM."""
    return Space.PIO if access.address < PORTS else Space.MMIO


@define
class Ours:
    """The machine, what it publishes, and one vCPU's posted writes that are on their way to it."""

    machine: Machine = field(factory=lambda: _machine())  # noqa: PLW0108  # below
    slot: Slot = field(factory=lambda: Slot.create(0, PUBLISHED_BYTES))
    view: View = field(init=False)
    posted: list[Exit] = field(factory=list)
    """On their way."""

    def __attrs_post_init__(self) -> None:
        """Publish, and place what the guest's firmware would place."""
        at = self.slot.length - PUBLISHED_BYTES
        self.slot.words[shared.PUBLISHED_OFFSET // _WORD] = at
        self.machine.publish(self.slot.words[at // _WORD :])
        assert self.machine.page is not None
        self.machine.page.go()
        for address, size, value in PLACED:
            self.machine.write(Space.PCI_CONFIG, address, size, value)
        view = View.of(self.slot)
        assert view is not None
        self.view = view

    def close(self) -> None:
        """Give the memory back."""
        self.slot.close()

    def answers(self, access: Access) -> bool:
        """Whether somebody is there, or nobody on purpose."""
        found = self.machine.find(space_of(access), access.address)
        return found.claim is not None or found.policy is Policy.IGNORE

    def published(self, access: Access) -> int | None:
        """The value of a read that needs no message now."""
        return self.view.read(space_of(access), access.address, access.size)

    def way(self, access: Access) -> tuple[Way, Exit]:
        """How a write goes now, and as what: behind the windows of configuration space."""
        return self.view.way(Exit(space_of(access), WRITE, access.address, access.size, access.value))

    def post(self, written: Exit) -> None:
        """Put a write into the ring."""
        if self.slot.full:
            self.drain()
        self.slot.post(self.slot.posted + 1, written)
        self.posted.append(written)

    @property
    def drained(self) -> bool:
        """Whether no posted write is on its way."""
        return not self.posted

    def drain(self) -> None:
        """Do what was posted."""
        for written in self.posted:
            self.machine.write(written.space, written.address, written.size, written.value)
        self.posted.clear()
        self.slot.words[(shared.PAGE + shared.APPLIED) // _WORD] = self.slot.posted

    def ask(self, access: Access) -> None:
        """Do one by a message: what was posted comes before it."""
        self.drain()
        space = space_of(access)
        if access.write:
            self.machine.write(space, access.address, access.size, access.value)
        else:
            self.machine.read(space, access.address, access.size)


def _machine() -> Machine:
    with tempfile.TemporaryDirectory(prefix="mmiod-boot-") as folder:
        vm = VmConfig("boot", machine_file(Path(folder)), Path("unused"))
        machine = build(Config((vm,))).machines["boot"]
    machine.notify = lambda _event, **_fields: None
    machine.power_on(virtual=False)
    return machine
