"""A hypervisor without sockets: it holds a guest's memory and state, and answers what a run asks for."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Generator
from typing import Any

from attrs import define, evolve, field

from mmiod.core.run import Platform, run
from mmiod.device import Device, Region
from mmiod.machine.description import DeviceDescription, Placement, UnclaimedDescription
from mmiod.machine.slot import Slot, storage_of
from mmiod.machine.waist import Named
from mmiod.values import (
    Completion,
    DecodedExit,
    Done,
    Fault,
    Intent,
    NeedBytes,
    NeedMemory,
    NeedTranslation,
    RawExit,
    Space,
    VcpuState,
)
from tests.machine.machines import Rig

PAGE = 4096
RAM = 0
RAM_PAGES = 8
DEVICE = 0x10000
REMOTE = 0x20000
REMOTE_PAGES = 4
"""RAM that only messages reach."""
PORT = 0x100


@define(eq=False)
class Log:
    """What a device saw, and what it answered: no two reads give the same."""

    accesses: list[tuple[str, int, int, int]] = field(factory=list)

    def answer(self, space: str, offset: int, size: int) -> int:
        """A read."""
        count = len(self.accesses) + 1
        value = int.from_bytes(bytes((count * 37 + at) & 0xFF for at in range(size)), "little")
        self.accesses.append((f"{space} read", offset, size, value))
        return value

    def take(self, space: str, offset: int, size: int, value: int) -> None:
        """A write."""
        self.accesses.append((f"{space} write", offset, size, value))


def logging(log: Log, pages: int = 2) -> type[Device]:
    """A device over two pages of memory and sixteen ports."""

    class Logging(Device):
        memory_region = Region(pages * PAGE, unaligned=True)
        ports = Region(16, unaligned=True)

        @memory_region.on_read
        def _read(self, offset: int, size: int) -> int:
            return log.answer("mmio", offset, size)

        @memory_region.on_write
        def _write(self, offset: int, size: int, value: int) -> None:
            log.take("mmio", offset, size, value)

        @ports.on_read
        def _in(self, offset: int, size: int) -> int:
            return log.answer("pio", offset, size)

        @ports.on_write
        def _out(self, offset: int, size: int, value: int) -> None:
            log.take("pio", offset, size, value)

    return Logging


@define(eq=False)
class Guest:
    """One vCPU, its memory, and the machine that its exits reach."""

    state: VcpuState = field(factory=VcpuState)
    code: bytes = b""
    platform: Platform = field(factory=Platform)
    rep_bound: int = 1024
    unclaimed: tuple[UnclaimedDescription, ...] = ()
    device_base: int = DEVICE
    device_pages: int = 2
    log: Log = field(factory=Log)
    rig: Rig = field(init=False)
    remote: bytearray = field(factory=lambda: bytearray(b"\x5a" * REMOTE_PAGES * PAGE))
    asked: list[Completion] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        places = {
            "memory_region": Placement(Space.MMIO, self.device_base),
            "ports": Placement(Space.PIO, PORT),
        }
        described = DeviceDescription("test/logging", at=places)
        self.rig = Rig({"dev": (logging(self.log, self.device_pages), described)}, unclaimed=self.unclaimed)
        self.map(0, RAM, RAM_PAGES * PAGE)
        self.rig.machine.memory.add(Slot(1, REMOTE, REMOTE_PAGES * PAGE, False, None))

    def map(self, number: int, gpa: int, length: int, *, read_only: bool = False) -> None:
        """Shared RAM."""
        descriptor = os.memfd_create("ram", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.ftruncate(descriptor, length)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        storage = storage_of(descriptor, 0, length, read_only=read_only)
        self.rig.machine.memory.add(Slot(number, gpa, length, read_only, storage))

    def close(self) -> None:
        """Give the memory back."""
        self.rig.machine.memory.clear()

    def poke(self, gpa: int, data: bytes) -> None:
        """Change RAM of either kind."""
        if REMOTE <= gpa < REMOTE + len(self.remote):
            self.remote[gpa - REMOTE : gpa - REMOTE + len(data)] = data
        else:
            self.rig.machine.memory.write(gpa, data)

    def peek(self, gpa: int, size: int) -> bytes:
        """RAM of either kind."""
        if REMOTE <= gpa < REMOTE + len(self.remote):
            return bytes(self.remote[gpa - REMOTE : gpa - REMOTE + size])
        return self.rig.machine.memory.read(gpa, size)

    def exit(self, **changes: Any) -> RawExit:  # noqa: ANN401  # fields of RawExit
        """The exit of the instruction at hand."""
        return evolve(RawExit(0, 1, self.state, self.code), **changes)

    def once(self, exit_: RawExit | DecodedExit | None = None) -> Completion:
        """Run an exit that no device holds up."""
        return finished(run(self.rig.machine, exit_ or self.exit(), self.platform, self.rep_bound))

    def execute(
        self, first: Callable[[], RawExit], translate: Callable[[int], int] = lambda gva: gva
    ) -> Completion:
        """Send exits until the instruction is over, supplying what is asked for; the last completion.

        `first` makes an exit with what is known beforehand; `translate` is the page tables.
        """
        exit_ = first()
        for _ in range(4000):
            completion = self.once(exit_)
            self.asked.append(completion)
            if isinstance(completion, NeedBytes):
                start = completion.address - self.state.rip
                exit_ = evolve(exit_, code=exit_.code + self.code[start : start + completion.count])
            elif isinstance(completion, NeedMemory):
                supplied = (completion.gpa, self.peek(completion.gpa, completion.size))
                exit_ = evolve(exit_, memory=[*exit_.memory, supplied])
            elif isinstance(completion, NeedTranslation):
                page = completion.gva & -PAGE
                known = {**exit_.translations, (page, completion.intent): translate(page)}
                exit_ = evolve(exit_, translations=known)
            elif isinstance(completion, Done) and completion.delta.rip == self.state.rip:
                self.apply(completion)
                exit_ = first()
            else:
                if isinstance(completion, Done | Fault):
                    self.apply(completion)
                return completion
        raise AssertionError("the instruction does not end")

    def apply(self, completion: Done | Fault) -> None:
        """What a hypervisor does with a delta."""
        delta = completion.delta
        if delta is None:
            return
        gpr = [delta.registers.get(number, value) for number, value in enumerate(self.state.gpr)]
        self.state = evolve(self.state, gpr=gpr, rip=delta.rip, rflags=delta.rflags)
        for gpa, data in delta.memory:
            self.poke(gpa, data)


def finished(running: Generator[Named, int | None, Completion]) -> Completion:
    """The result of a run that never waits."""
    try:
        waits_for = next(running)
    except StopIteration as done:
        completion: Completion = done.value
        return completion
    raise AssertionError(f"waits for {waits_for.name}")


def translations(pages: dict[int, int]) -> dict[tuple[int, Intent], int]:
    """Everything that could be asked about these pages."""
    return {(gva, intent): gpa for gva, gpa in pages.items() for intent in Intent}
