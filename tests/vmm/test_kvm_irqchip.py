from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from mmiod.protocol.exit import replies
from mmiod.values import Completion, DecodedExit, Direction, Exit, HaltExit
from mmiod.vmm.accelerator import Accelerator
from mmiod.vmm.kvm import Kvm, KvmCpu, SignalAlarm
from mmiod.vmm.kvm_irqchip import NoSuchLine
from mmiod.vmm.vcpu import Vcpu
from tests.vmm import fake
from tests.vmm.assembler import assembled
from tests.vmm.fake import FakeDaemon, Run, firmware, ones, ports
from tests.vmm.test_kvm import _bounded

pytestmark = pytest.mark.needs("kvm", "gcc")
__all__ = ["_bounded"]

CONTROLLERS = """
    xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7000
    mov al, 0x11; out 0x20, al; out 0xa0, al    # ICW1: edges, cascade, ICW4
    mov al, 0x20; out 0x21, al                  # vectors 0x20-0x2f
    mov al, 0x28; out 0xa1, al
    mov al, 4; out 0x21, al
    mov al, 2; out 0xa1, al
    mov al, 1; out 0x21, al; out 0xa1, al
    xor al, al; out 0x21, al; out 0xa1, al      # nothing is masked
    mov dx, 0x4d1; mov al, 0x0c; out dx, al     # ELCR: 10 and 11 are levels
    mov word ptr [0x24 * 4], offset isa - 0xf0000
    mov word ptr [0x24 * 4 + 2], 0xf000
    mov word ptr [0x2b * 4], offset pci - 0xf0000
    mov word ptr [0x2b * 4 + 2], 0xf000
    mov word ptr [0x40 * 4], offset message - 0xf0000
    mov word ptr [0x40 * 4 + 2], 0xf000
    jmp main
isa:
    mov al, 0x44; out 0x80, al
    mov al, 0x20; out 0x20, al; iret
pci:
    inc byte ptr [0x5001]; mov al, 0xbb; out 0x80, al
    mov al, 0x20; out 0xa0, al; out 0x20, al; iret
message:
    mov al, 0x40; out 0x80, al; iret
"""
END = "mov al, 0; out 0xf4, al; hlt"

Action = Callable[[FakeDaemon], None]


def guest(text: str, daemon: FakeDaemon, early: str = "") -> Run:
    """A guest on KVM whose controllers are KVM's: it runs `early`, sets them up, runs `text`."""

    def build(vcpu: Vcpu) -> Accelerator:
        cpu = KvmCpu(Kvm.open(), vcpu.memory, vcpu.perform, alarm.ring)
        vcpu.link.controller = cpu.irqchip
        return cpu

    alarm = SignalAlarm()
    image = assembled(f"{early}\n{CONTROLLERS}\nmain: {text}")
    return fake.guest(image, daemon, accelerator=build, alarm=alarm)


def nothing(_daemon: FakeDaemon) -> None:
    """What devices do at most ports."""


def acting(**actions: Action) -> FakeDaemon:
    """Does `actions["at_98"]` when the guest writes to port 0x98, and so on."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        assert not isinstance(exit_, HaltExit), "HLT is KVM's"
        if isinstance(exit_, DecodedExit) and exit_.direction is Direction.WRITE:
            actions.get(f"at_{exit_.address:x}", nothing)(daemon)
        return ones(daemon, exit_)

    return FakeDaemon(answer)


def told(run: Run) -> list[int]:
    """What the guest wrote to port 0x80."""
    return [data[0] for _, port, data in ports(run) if port == 0x80]


def test_an_edge_interrupts_once_and_so_does_the_next() -> None:
    """Line 4 rises, stays, falls and rises: two interrupts through KVM's 8259, no EOI to the daemon."""

    def pulse(daemon: FakeDaemon) -> None:
        daemon.set_level(4, level=True)
        daemon.set_level(4, level=False)

    daemon = acting(at_98=pulse, at_99=lambda d: d.set_level(4, level=True))
    run = guest(f"sti; out 0x98, al; nop; out 0x99, al; nop; out 0x9a, al; nop; {END}", daemon)

    assert run.run() == 0

    assert [0x44, 0x44] == told(run)
    assert [] == daemon.eois


def test_a_level_interrupts_until_the_device_lets_go() -> None:
    """Line 11 stays high: each end of the interrupt is an EOI, and the daemon raises it again."""
    seen = list[int]()

    def count(daemon: FakeDaemon) -> None:
        seen.append(1)
        if len(seen) == 3:
            daemon.set_level(11, level=False)

    daemon = acting(at_98=lambda d: d.set_level(11, level=True), at_80=count)
    run = guest(f"sti; out 0x98, al\n1: cmp byte ptr [0x5001], 3; jne 1b; {END}", daemon)

    assert run.run() == 0

    assert [0xBB] * 3 == told(run)
    assert [11] * 2 == daemon.eois[:2]  # the guest may end before its third one is sent


def test_hlt_ends_with_a_line_that_rises_meanwhile() -> None:
    """The guest halts in the kernel; a message that no exit waits for wakes it."""
    daemon = acting()
    run = guest(f"mov byte ptr [0x6000], 1; sti; hlt; out 0x90, al; {END}", daemon)

    def send() -> None:
        while run.memory.read(0x6000, 1) == b"\0":
            pass
        daemon.send(replies.set_level(11, True))  # not among `high`: it is told once, however soon it ends

    sender = threading.Thread(target=send)
    sender.start()

    assert run.run() == 0

    sender.join()
    assert [0xBB] == told(run)


UNREAL = """
    lgdt cs:[gdtr - 0xf0000]; mov eax, cr0; or al, 1; mov cr0, eax
    mov bx, 8; mov ds, bx; and al, 0xfe; mov cr0, eax
"""
GDT = """
.balign 8
gdt: .quad 0, 0x00cf93000000ffff
gdtr: .word 15; .long gdt
"""


def test_a_message_goes_to_the_local_apic() -> None:
    """MSI with the vector that the device's data names, once the guest has its local APIC on."""
    daemon = acting(at_98=lambda d: d.send(replies.msi(0xFEE0_0000, 0x40)))
    enable = "mov ebx, 0xfee000f0; mov dword ptr [ebx], 0x1ff"
    run = guest(f"{UNREAL} {enable}; sti; out 0x98, al; nop; out 0x90, al; {END} {GDT}", daemon)

    assert run.run() == 0

    assert [0x40] == told(run)


def test_a_message_that_nobody_takes_is_lost() -> None:
    """To a local APIC that is not there: the guest goes on."""
    daemon = acting(at_98=lambda d: d.send(replies.msi(0xFEE0_5000, 0x40)))
    run = guest(f"sti; out 0x98, al; nop; out 0x90, al; {END}", daemon)

    assert run.run() == 0

    assert [] == told(run)


def test_the_guest_sees_a_local_apic() -> None:
    """CPUID 1 EDX bit 9, which is clear where the controllers are mmiod's."""
    run = guest(f"mov eax, 1; cpuid; shr edx, 8; mov al, dl; out 0x80, al; {END}", acting())

    assert run.run() == 0

    assert told(run)[0] & 2


def test_a_reset_is_one_of_the_controllers_too() -> None:
    """They are as at first, and a line that a device still drives is raised again."""

    def reset(daemon: FakeDaemon) -> None:
        daemon.set_level(11, level=True)
        daemon.request("RESET")

    daemon = acting(at_98=reset, at_80=lambda d: d.set_level(11, level=False))
    look = "mov dx, 0x4d1; in al, dx; out 0x81, al"
    code = f"""
        cmp byte ptr [0x5000], 1; je 2f
        mov byte ptr [0x5000], 1
        mov al, 0xff; out 0x21, al              # all masked: line 11 waits
        out 0x98, al
    2:  sti
    3:  cmp byte ptr [0x5001], 1; jne 3b; {END}
    """
    run = guest(code, daemon, early=look)

    assert run.run() == 0

    assert [None] == [reset.vcpu for reset in daemon.resets]
    assert [0, 0] == [data[0] for _, port, data in ports(run) if port == 0x81]
    assert [0xBB] == told(run)


def test_a_line_that_is_not_there_is_told() -> None:
    """The machine file's number is in the message."""
    run = guest(f"out 0x98, al; {END}", acting(at_98=lambda d: d.set_level(24, level=True)))

    with pytest.raises(NoSuchLine, match=r"hypervisor\.24: lines are 0\.\.23"):
        run.run()


def test_without_them_the_cpu_has_no_controllers() -> None:
    """What `ring` decides."""
    run = fake.guest(
        firmware("f4"), FakeDaemon(), accelerator=lambda v: KvmCpu(Kvm.open(), v.memory, v.perform)
    )
    cpu = run.vcpu.cpu
    run.close()

    assert isinstance(cpu, KvmCpu)
    assert cpu.irqchip is None
