"""A machine that answers exits of sources: a device in each space, RAM that is mapped and RAM that is not."""

from __future__ import annotations

import fcntl
import os

from attrs import define, evolve, field

from mmiod.attach.sourced import answered, stored, understood
from mmiod.core.run import Platform, run
from mmiod.device import Device, Region
from mmiod.machine.description import DeviceDescription, Placement, UnclaimedDescription
from mmiod.machine.memory import GuestMemory
from mmiod.machine.slot import Slot, storage_of
from mmiod.protocol.exit import NUMBERS, Answer, Reply, SourceExit
from mmiod.protocol.exit.supplements import Supplied
from mmiod.protocol.sources import SOURCES, Settled, Source
from mmiod.values import (
    CS,
    DecodedExit,
    Exit,
    NeedBytes,
    NeedMemory,
    NeedRegisters,
    RawExit,
    Segment,
    Space,
    VcpuState,
)
from tests.core.guests import Log, finished
from tests.machine.machines import Rig

PAGE = 4096
MMIO, PORT, MSR, CONFIG = 0x10000, 0x100, 0x4000_0100, 3 << 15
"""Where the device is; the numbers of foreign.c."""
RIP, POINTED = 0x1000, 0x2000
SHARED_BIT = 1 << 51
RAM_PAGES = 4


def recording(log: Log) -> type[Device]:
    """A device in four spaces, whose reads give other bytes each time."""

    class Recording(Device):
        mmio = Region(PAGE, unaligned=True)
        pio = Region(16, unaligned=True)
        msr = Region(16, unaligned=True)
        pci = Region(256, unaligned=True)

        @mmio.on_read
        def _read_mmio(self, offset: int, size: int) -> int:
            return log.answer("mmio", offset, size)

        @mmio.on_write
        def _write_mmio(self, offset: int, size: int, value: int) -> None:
            log.take("mmio", offset, size, value)

        @pio.on_read
        def _read_pio(self, offset: int, size: int) -> int:
            return log.answer("pio", offset, size)

        @pio.on_write
        def _write_pio(self, offset: int, size: int, value: int) -> None:
            log.take("pio", offset, size, value)

        @msr.on_read
        def _read_msr(self, offset: int, size: int) -> int:
            return log.answer("msr", offset, size)

        @msr.on_write
        def _write_msr(self, offset: int, size: int, value: int) -> None:
            log.take("msr", offset, size, value)

        @pci.on_read
        def _read_pci(self, offset: int, size: int) -> int:
            return log.answer("pci", offset, size)

        @pci.on_write
        def _write_pci(self, offset: int, size: int, value: int) -> None:
            log.take("pci", offset, size, value)

    return Recording


def flat32(**registers: int) -> VcpuState:
    """Flat 32-bit protected mode without paging, as foreign.c has it."""
    segments = [Segment(0, 0xFFFF_FFFF, 0x10, 0xC093) for _ in range(6)]
    segments[CS] = Segment(0, 0xFFFF_FFFF, 8, 0xC09B)
    state = VcpuState(segments=segments, cr0=1, rip=RIP)
    for number, name in enumerate(("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")):
        state.gpr[number] = registers.get(name, 0)
    return state


@define(eq=False)
class Stage:
    """A session of one source, without sockets."""

    name: str
    unclaimed: tuple[UnclaimedDescription, ...] = ()
    mapped: bool = True
    """Whether guest memory is; else everything there is asked for."""
    log: Log = field(factory=Log)
    rig: Rig = field(init=False)

    def __attrs_post_init__(self) -> None:
        places = {
            "mmio": Placement(Space.MMIO, MMIO),
            "pio": Placement(Space.PIO, PORT),
            "msr": Placement(Space.MSR, MSR),
            "pci": Placement(Space.PCI_CONFIG, CONFIG),
        }
        described = DeviceDescription("test/recording", at=places)
        self.rig = Rig({"dev": (recording(self.log), described)}, unclaimed=self.unclaimed)
        if self.mapped:
            self._map()

    @property
    def source(self) -> Source:
        """The module."""
        return SOURCES[NUMBERS["source"][self.name]]

    def _map(self) -> None:
        descriptor = os.memfd_create("ram", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.ftruncate(descriptor, RAM_PAGES * PAGE)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        storage = storage_of(descriptor, 0, RAM_PAGES * PAGE, read_only=False)
        self.memory.add(Slot(0, 0, RAM_PAGES * PAGE, read_only=False, storage=storage))

    def add_remote(self) -> None:
        """RAM that only messages reach."""
        self.memory.add(Slot(1, 0, RAM_PAGES * PAGE, read_only=False, storage=None))

    def close(self) -> None:
        """Give the memory back."""
        self.memory.clear()

    def read(self, arrived: SourceExit) -> Exit | Settled:
        """What the source makes of it."""
        return understood(arrived, self.source, self.memory)

    def exit(self, body: bytes, **more: object) -> Answer:
        """One exit and its answer, as the attachment gives it."""
        arrived = SourceExit(0, 1, body, **more)  # type: ignore[arg-type]
        found = self.read(arrived)
        platform = Platform(shared_mask=SHARED_BIT, vectors=True)
        if isinstance(found, Settled):
            for write in found.posted:
                data = write.value.to_bytes(write.size, "little")
                exit_ = DecodedExit(0, 1, write.space, write.direction, write.address, write.size, data=data)
                finished(run(self.rig.machine, exit_, platform, 64))
            return stored(found.answer, self.memory) if isinstance(found.answer, Reply) else found.answer
        assert isinstance(found, DecodedExit | RawExit)
        completion = finished(run(self.rig.machine, found, platform, 64))
        return answered(self.source, arrived, found, completion, self.memory)

    @property
    def memory(self) -> GuestMemory:
        """The machine's."""
        return self.rig.machine.memory

    def supplied(self, body: bytes, state: VcpuState, code: bytes = b"", ram: bytes = b"") -> Answer:
        """Send an exit until nothing is asked for any more; `ram` is guest memory at POINTED."""
        arrived = SourceExit(0, 1, body)
        for _ in range(8):
            answer = self.exit(body, code=arrived.code, state=arrived.state, supplied=arrived.supplied)
            if isinstance(answer, NeedBytes):
                arrived.code = code
            elif isinstance(answer, NeedRegisters):
                arrived.state = evolve(state)
            elif isinstance(answer, NeedMemory):
                known = arrived.supplied.memory
                arrived.supplied = Supplied(memory=[*known, (POINTED, ram)])
            else:
                return answer
        raise AssertionError("the exit does not end")
