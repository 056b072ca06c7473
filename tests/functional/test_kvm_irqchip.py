"""Interrupts of devices in the daemon through the controllers that KVM has in the kernel."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import pytest

from mmiod.vmm.accelerator import Accelerator
from mmiod.vmm.vcpu import Vcpu
from tests.functional.boots import pc
from tests.functional.guests import RAM, execute

pytestmark = pytest.mark.needs("kvm", "gcc")

EXPRESS: Final = 0xE001_0000
# PIIX3 routes PIRQC, where the test device's INTx leads, to line 11, a level; PIC at 0x20-0x2f.
TEXT: Final = f"""
.macro gate vector, handler
    lea rax, [rip + \\handler]
    mov [0x5000 + \\vector * 16], ax; mov word ptr [0x5000 + \\vector * 16 + 2], 8
    mov word ptr [0x5000 + \\vector * 16 + 4], 0x8e00; shr rax, 16
    mov [0x5000 + \\vector * 16 + 6], ax
.endm
.macro write port, value
    mov dx, \\port; mov al, \\value; out dx, al
.endm
    gate 0x2b, line; gate 0x40, message; lidt [rip + idtr]
    pci 0x80000860, 0x800b8080
    write 0x20, 0x11; write 0xa0, 0x11; write 0x21, 0x20; write 0xa1, 0x28; write 0x21, 4; write 0xa1, 2
    write 0x21, 1; write 0xa1, 1; write 0x21, 0; write 0xa1, 0; write 0x4d1, 0x0c
    pci 0x80002010, {EXPRESS:#x}; pci 0x80002004, 6
    pci 0x80002084, 0xfee00000; pci 0x80002088, 0; pci 0x8000208c, 0x40; pci 0x80002080, 0x10000
    mov ebx, 0xfee000f0; mov dword ptr [rbx], 0x1ff
    mov dword ptr [rsi + 0x28], 1; sti
    mov dword ptr [rsi + 0x20], 1
1:  cmp dword ptr [{RAM}], 3; jne 1b
    mov dword ptr [rsi + 0x20], 1
1:  cmp dword ptr [{RAM}], 4; jne 1b
    mov ebx, {EXPRESS:#x}; mov dword ptr [rbx], 0
1:  cmp dword ptr [{RAM} + 4], 1; jne 1b
    jmp end
line:
    push rax; push rdx; inc dword ptr [{RAM}]; cmp dword ptr [{RAM}], 3; jb 2f
    mov dword ptr [rsi + 0x24], 1               # acknowledged
2:  write 0xa0, 0x20; write 0x20, 0x20; pop rdx; pop rax; iretq
message:
    push rbx; inc dword ptr [{RAM} + 4]; mov ebx, 0xfee000b0; mov dword ptr [rbx], 0; pop rbx; iretq
idtr: .word 0x4ff; .quad 0x5000
end:
"""


def build(vcpu: Vcpu) -> Accelerator:
    """A vCPU on KVM with controllers in the kernel."""
    from mmiod.vmm.kvm import Kvm, KvmCpu, SignalAlarm  # noqa: PLC0415 - the mark `needs` comes first

    alarm = vcpu.link.alarm = SignalAlarm()
    cpu = KvmCpu(Kvm.open(irqchip=True), vcpu.memory, vcpu.perform, alarm.ring)
    vcpu.link.controller = cpu.irqchip
    return cpu


async def test_levels_and_messages_of_devices_interrupt_the_guest(tmp_path: Path) -> None:
    """INTx held for three interrupts is raised again at each EOI, then falls; MSI comes as its own vector.

    The guest waits for each without a single exit: messages reach KVM while it runs.
    """
    express = {"plugin": "pci/testdev_express", "slot": "00:04.0"}
    machine = pc("pc-irqchip.toml", express=express)
    ended = await execute(tmp_path, TEXT, build, machine=machine, required=("LEVELS", "MSI"))
    assert (4, 1) == struct.unpack("<II", ended.ram(8))
    assert ended.machine.levels[11] is False
