"""Small 64-bit guests of our own: the real daemon, its test device, a hypervisor in a thread of the test.

A guest fills the device's RAM with `PATTERN`, runs its text with RDI at that RAM and RSI at
the device's registers, and powers the machine off.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import define

from mmiod.machine.machine import Machine
from mmiod.protocol.exit.client import Client
from mmiod.protocol.exit.table import NUMBERS
from mmiod.trace.record import Record
from mmiod.vmm.accelerator import Accelerator
from mmiod.vmm.clock import DaemonClock
from mmiod.vmm.guest import PAGE, GuestMemory
from mmiod.vmm.link import Link
from mmiod.vmm.vcpu import Vcpu
from mmiod.vmm.wire import connect_to
from tests.functional.boots import PATIENCE_S, Boot, Tables, pc, serving
from tests.vmm.assembler import assembled

REGISTERS: Final = 0xE000_0000
DEVICE: Final = 0xE100_0000
RAM: Final = 0x6000
PATTERN: Final = bytes((7 * number + 0x81) & 0xFF for number in range(256))

CONFIGURATION: Final = {
    0x8000_1810: REGISTERS,
    0x8000_1818: DEVICE,
    0x8000_181C: 0,
    0x8000_1804: 2,
    0x8000_0B40: 0x601,
    0x8000_0B80: 1,
}
"""What is written to PCI configuration space: 00:03.0 is the test device, 00:01.3 power management."""

_CAPABILITY: Final = NUMBERS["capability"]
_OPTIONAL: Final = _CAPABILITY["REQUESTS"] | _CAPABILITY["VECTORS"]
_TEXT: Final = """
.macro pci address, value
    mov eax, \\address; mov dx, 0xcf8; out dx, eax
    mov eax, \\value; mov dl, 0xfc; out dx, eax
.endm
    cli
    {configuration}
    lgdt cs:[gdtr - 0xf0000]
    mov eax, 0x40220; mov cr4, eax              # OSXSAVE, OSFXSR, PAE
    mov eax, offset pml4; mov cr3, eax
    mov ecx, 0xc0000080; rdmsr; or eax, 0x100; wrmsr
    mov eax, 0x80000011; mov cr0, eax
    .byte 0x66, 0xea; .long long; .word 8
.code64
long:
    mov ax, 16; mov ds, ax; mov es, ax; mov ss, ax
    mov esp, 0x7000
    mov edi, {device}; mov esi, {registers}
    mov eax, 0x81; xor ecx, ecx
fill:
    mov [rdi + rcx], al; add al, 7; inc cl; jnz fill
{text}
    mov dx, 0x604; mov ax, 0x2000; out dx, ax   # off
    hlt
.balign 8
gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdtr: .word 23; .long gdt
.balign 4096, 0
pml4: .quad pdpt + 3; .balign 4096, 0
pdpt: .quad pd + 3, pd + 0x1003, pd + 0x2003, pd + 0x3003; .balign 4096, 0
pd:
    .set page, 0x83
    .rept 2048
    .quad page; .set page, page + 0x200000
    .endr
"""


@define
class Ended:
    """What a guest left behind."""

    machine: Machine
    memory: GuestMemory
    cpu: Accelerator
    raw_exits: int
    trace: list[Record]
    """What came to the devices."""

    @property
    def device(self) -> bytes:
        """The RAM of the test device."""
        state = self.machine.hosts["testdev"].device.state
        return bytes(state.data)

    def ram(self, size: int) -> bytes:
        """Guest RAM from `RAM` on."""
        return self.memory.read(RAM, size)


def image(text: str) -> bytes:
    """The firmware of such a guest."""
    configuration = "\n".join(f"pci {address:#x}, {value:#x}" for address, value in CONFIGURATION.items())
    places = {"registers": REGISTERS, "device": DEVICE, "configuration": configuration}
    return assembled(_TEXT.format(text=text, **places))


Build = Callable[[Vcpu], Accelerator]


async def execute(
    directory: Path,
    text: str | None,
    build: Build,
    began: Callable[[Machine], None] = lambda _machine: None,
    machine: Tables | None = None,
    required: tuple[str, ...] = ("INTR",),
) -> Ended:
    """Run a guest to its end, on the accelerator that `build` makes; errors of its hypervisor come out.

    Without `text` there is no firmware.
    """
    socket = str(directory / "vm.exit")
    needed = sum(_CAPABILITY[name] for name in required)
    client = Client("vm", vcpus=1, required=needed, optional=_OPTIONAL, physical_bits=40)
    memory = GuestMemory.create(2, bytes(PAGE) if text is None else image(text))
    run = partial(_run, Link(connect_to(socket), client, memory.slots), memory, build)
    async with serving(directory, Boot(machine or pc())) as daemon:
        began(daemon.machines["vm"])
        with trio.fail_after(PATIENCE_S):
            vcpu = await trio.to_thread.run_sync(run, abandon_on_cancel=True)
        flights = daemon.flights("vm")
        assert flights is not None
        raw_exits = flights.totals.exits.get("RawExit", 0)
        trace, _, _ = daemon.recorder.since(0, 1 << 30)
        return Ended(daemon.machines["vm"], vcpu.memory, vcpu.cpu, raw_exits, trace)


def _run(link: Link, memory: GuestMemory, build: Build) -> Vcpu:
    vcpu = Vcpu(link, memory, DaemonClock(), build)
    link.open()
    try:
        assert vcpu.run() == 0
    finally:
        link.close()
        memory.close()  # what is mapped stays
    return vcpu
