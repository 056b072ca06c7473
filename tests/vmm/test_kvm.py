from __future__ import annotations

import os
import signal
import struct
import threading
from collections.abc import Iterator

import pytest

from mmiod.protocol.exit import replies
from mmiod.protocol.exit.table import NUMBERS
from mmiod.values import (
    CS,
    DS,
    ES,
    AcknowledgeExit,
    Completion,
    DecodedExit,
    Delta,
    Direction,
    Done,
    Exit,
    Fault,
    HaltExit,
    Intent,
    NeedBytes,
    NeedMemory,
    NeedTranslation,
    RawExit,
    Retry,
    Segment,
    Space,
    Values,
)
from mmiod.vmm import kvm_abi as abi, kvm_cpuid
from mmiod.vmm.accelerator import Accelerator, Paused, Touched
from mmiod.vmm.guest import GuestMemory
from mmiod.vmm.kvm import NEEDED, NEEDED_FOR_IRQCHIP, Kvm, KvmCpu, SignalAlarm, Unavailable
from mmiod.vmm.kvm_cpuid import Processor
from mmiod.vmm.vcpu import Vcpu
from tests.vmm import fake
from tests.vmm.fake import EXIT, GDT, GDTR, IVT_20, FakeDaemon, Run, firmware, ones, ports
from tests.vmm.test_interrupts import STACK, interrupting
from tests.vmm.test_vcpu import BREAKPOINT, FLAT, TRAPPED, UNREAL, check_trapped, met, raw_exits, scripted

kvm = pytest.mark.needs("kvm")

VGA = "b800a0 8ed8"
"""mov ax, 0xa000; mov ds, ax."""
POPCNT = "f30fb8060000"
"""popcnt ax, [0]: no KVM emulates it."""


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """A guest that runs for ever, because nothing ends KVM_RUN, fails its test."""

    def ring(_signal: int, _frame: object) -> None:
        raise AssertionError("the guest did not come to its end")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def guest(image: bytes, daemon: FakeDaemon) -> Run:
    """A guest of 1 MiB on KVM."""

    def build(vcpu: Vcpu) -> Accelerator:
        return KvmCpu(Kvm.open(), vcpu.memory, vcpu.perform)

    return fake.guest(image, daemon, accelerator=build, alarm=SignalAlarm())


def decoded(run: Run) -> list[DecodedExit]:
    """The decoded exits but for the last one, which ends the run."""
    return [exit_ for exit_, _ in run.daemon.exits if isinstance(exit_, DecodedExit)][:-1]


def accesses(run: Run) -> list[tuple[str, str, int, int, int, int, bytes]]:
    """What they ask, in full."""
    return [
        (
            exit_.space.name,
            exit_.direction.name,
            exit_.address,
            exit_.size,
            exit_.count,
            exit_.stride,
            exit_.data,
        )
        for exit_ in decoded(run)
    ]


def counting(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
    """Reads bring 1, 2, 3, ... byte by byte."""
    if isinstance(exit_, DecodedExit) and exit_.direction is Direction.READ:
        return Values(bytes(range(1, 1 + exit_.size * exit_.count)))
    return ones(daemon, exit_)


# --- accesses ------------------------------------------------------------------------------


@kvm
def test_port_accesses_go_out_with_their_size_and_bring_their_value() -> None:
    """IN and OUT of 1, 2 and 4 bytes, the read value written to the next port."""
    run = guest(firmware("e440 e641 e542 e743 66e544 66e745" + EXIT), FakeDaemon(counting))

    assert run.run() == 0

    assert [
        ("READ", 0x40, b""),
        ("WRITE", 0x41, b"\1"),
        ("READ", 0x42, b""),
        ("WRITE", 0x43, b"\1\2"),
        ("READ", 0x44, b""),
        ("WRITE", 0x45, b"\1\2\3\4"),
    ] == ports(run)


@kvm
def test_a_string_that_is_read_from_a_port_is_one_exit() -> None:
    """REP INSB has all its elements at once; of OUTS, KVM makes an access each."""
    ins = "bf0060 b90500 ba5000 f36c"  # mov di, 0x6000; mov cx, 5; mov dx, 0x50; rep insb
    outs = "be0060 b90200 ba5200 f36f"  # mov si, 0x6000; mov cx, 2; mov dx, 0x52; rep outsw
    run = guest(firmware(ins + outs + EXIT), FakeDaemon(counting))

    assert run.run() == 0

    assert [
        ("PIO", "READ", 0x50, 1, 5, 0, b""),
        ("PIO", "WRITE", 0x52, 2, 1, 0, b"\1\2"),
        ("PIO", "WRITE", 0x52, 2, 1, 0, b"\3\4"),
    ] == accesses(run)


@kvm
def test_memory_that_is_not_the_guests_is_accessed_in_the_daemon() -> None:
    """Reads and writes of 1, 2 and 4 bytes in the VGA hole."""
    code = VGA + "a01000 a21100 a11200 a31400 66a11800 66a31c00"
    run = guest(firmware(code + EXIT), FakeDaemon(counting))

    assert run.run() == 0

    assert [
        ("MMIO", "READ", 0xA0010, 1, 1, 0, b""),
        ("MMIO", "WRITE", 0xA0011, 1, 1, 0, b"\1"),
        ("MMIO", "READ", 0xA0012, 2, 1, 0, b""),
        ("MMIO", "WRITE", 0xA0014, 2, 1, 0, b"\1\2"),
        ("MMIO", "READ", 0xA0018, 4, 1, 0, b""),
        ("MMIO", "WRITE", 0xA001C, 4, 1, 0, b"\1\2\3\4"),
    ] == accesses(run)


@kvm
def test_a_write_to_the_rom_is_an_exit() -> None:
    """The firmware's page below 4 GiB is read as memory, and written as MMIO."""
    code = UNREAL + "66b80000ffff 678a18 678818" + EXIT  # mov eax, 0xffff0000; mov bl, [eax]; mov [eax], bl
    run = guest(firmware(code, at_7f0=GDTR, at_800=GDT), FakeDaemon())

    assert run.run() == 0

    assert [("MMIO", "WRITE", 0xFFFF0000, 1, 1, 0, b"\x2e")] == accesses(run)


@kvm
def test_an_access_over_a_pages_end_comes_in_parts() -> None:
    """A part of three bytes is three elements at ascending addresses."""
    run = guest(firmware(VGA + "66b844332211 66a3fd0f" + EXIT), FakeDaemon())

    assert run.run() == 0

    assert [
        ("MMIO", "WRITE", 0xA0FFD, 1, 3, 1, bytes.fromhex("443322")),
        ("MMIO", "WRITE", 0xA1000, 1, 1, 0, b"\x11"),
    ] == accesses(run)


# --- interrupts and what nobody waits for ---------------------------------------------------


@kvm
def test_hlt_waits_for_an_interrupt_which_is_asked_for_and_delivered() -> None:
    """EXIT_HALT, EXIT_INTA, the handler, then what follows HLT."""
    code = STACK + IVT_20 + "e699 fb f4 b001 e681" + EXIT
    run = guest(firmware(code, at_200="b002 e681 cf"), interrupting())

    assert run.run() == 0

    kinds = [type(exit_) for exit_, _ in run.daemon.exits]
    assert [DecodedExit, HaltExit, AcknowledgeExit, DecodedExit, DecodedExit, DecodedExit] == kinds
    assert [b"\2", b"\1"] == [data for _, port, data in ports(run) if port == 0x81]


@kvm
def test_an_interrupt_waits_for_if_and_for_the_shadow_of_sti() -> None:
    """Pending while IF is 0: taken behind the instruction that follows STI or, nested, somewhat later."""
    code = STACK + IVT_20 + "31db e699 43 43 fb 43 ebfe"  # inc bx before and after sti; jmp $
    run = guest(firmware(code, at_200="88d8 e681" + EXIT), interrupting())

    assert run.run() == 0

    assert [b"\3"] == [data for _, port, data in ports(run) if port == 0x81]


@kvm
@pytest.mark.parametrize(
    "message", [replies.intr(0, level=True), replies.request(NUMBERS["request_kind"]["EXIT"], value=7)]
)
def test_a_guest_that_never_exits_is_reached(message: bytes) -> None:
    """INTR and REQUEST end KVM_RUN: the guest spins, counting in RAM, when they are sent."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        return Values(b"\x20") if isinstance(exit_, AcknowledgeExit) else ones(daemon, exit_)

    daemon = FakeDaemon(answer)
    spin = "fb ff060060 ebfa"  # sti; inc word [0x6000]; jmp to the inc
    run = guest(firmware(STACK + IVT_20 + spin, at_200="b007 e6f4 f4"), daemon)

    def send() -> None:
        while run.memory.read(0x6000, 2) == bytes(2):
            pass
        daemon.send(message)

    sender = threading.Thread(target=send)
    sender.start()

    assert run.run() == 7

    sender.join()


@kvm
def test_a_pause_completes_the_access_first() -> None:
    """Armed during an IN: the CPU stands still with the value in its register, nothing more executed."""

    def perform(
        _space: Space, _direction: Direction, _port: int, _size: int, _count: int, _data: bytes
    ) -> bytes:
        cpu.arm(0, interrupt=False)
        return b"\x5a"

    cpu = KvmCpu(Kvm.open(), GuestMemory.create(1, firmware("e440 e641" + EXIT)), perform)

    assert Paused() == cpu.run()
    assert (2, 0x5A) == (cpu.state().rip, cpu.state().gpr[0] & 0xFF)


# --- what KVM does not execute --------------------------------------------------------------


@kvm
def test_an_instruction_that_kvm_does_not_know_is_mmiods() -> None:
    """Its bytes and registers go out; the delta is where the guest goes on with."""
    code = "fd" + VGA + POPCNT + "e741 9c 58 e743" + EXIT
    daemon = scripted(Done(Delta(0xF, 0x46, {0: 0x1234, 9: 5}, [(0x6000, b"abc")])))
    run = guest(firmware("bc0070" + code), daemon)

    assert run.run() == 0

    (exit_,) = raw_exits(run)
    assert bytes.fromhex(POPCNT) == exit_.code[:6]
    assert (None, None) == (exit_.gpa, exit_.intent)
    state = exit_.state
    assert (9, 0x402, 0xA000, 0x7000, 0) == (
        state.rip, state.rflags & 0x402, state.gpr[0], state.gpr[4], state.cpl
    )  # fmt: skip
    assert Segment(0xF0000, 0xFFFF, 0xF000, 0x9B) == state.segments[CS]
    assert Segment(0xA0000, 0xFFFF, 0xA000, 0x93) == state.segments[DS]
    assert (0x10, 0xFFFF0FF0, 0x400) == (state.cr0 & 0x80000011, state.dr6, state.dr7)
    assert [("WRITE", 0x41, b"\x34\x12"), ("WRITE", 0x43, b"\x46\0")] == ports(run)
    assert b"abc" == run.memory.read(0x6000, 3)


@kvm
def test_a_loaded_segment_is_applied() -> None:
    """The guest goes on with the segment that DONE brings, its hidden part as it is there."""
    es = Segment(0x61000, 0xFFFF, 0x6000, 0x93)
    code = VGA + POPCNT + "26c60634125a" + EXIT  # mov byte es:[0x1234], 0x5a
    run = guest(firmware("bc0070" + code), scripted(Done(Delta(0xE, 2, segments={ES: es}))))

    assert run.run() == 0

    assert b"\x5a" == run.memory.read(0x62234, 1)


@kvm
def test_a_fault_that_mmiod_reports_reaches_the_guests_handler() -> None:
    """Vector 13 through the vector table, with the instruction's own address on the stack."""
    vector = "c7063400 0002 c7063600 00f0"
    code = STACK + vector + VGA + POPCNT + EXIT
    run = guest(firmware(code, at_200="58 e741" + EXIT), scripted(Fault(13, 0)))

    assert run.run() == 0

    assert [("WRITE", 0x41, bytes([3 + 12 + 5, 0]))] == ports(run)


@kvm
def test_a_page_fault_has_its_address_in_cr2() -> None:
    """As FAULT says; the handler of vector 14 reads it."""
    vector = "c7063800 0002 c7063a00 00f0"
    code = STACK + vector + VGA + POPCNT + EXIT
    run = guest(
        firmware(code, at_200="0f20d0 66e741" + EXIT), scripted(Fault(14, 2, 0x12345678, Delta(3, 2, {3: 5})))
    )

    assert run.run() == 0

    assert [("WRITE", 0x41, bytes.fromhex("78563412"))] == ports(run)
    assert 5 == run.vcpu.cpu.state().gpr[3]


@kvm
def test_a_breakpoint_that_mmiod_met_reaches_the_guests_handler() -> None:
    """As on Unicorn: DR0-3 come along when asked for, DONE with debug bits is #DB behind it."""
    code = STACK + BREAKPOINT + VGA + POPCNT
    after = len(bytes.fromhex(code))
    check_trapped(guest(firmware(code + "ebfe", at_200=TRAPPED), met(after)), after)


@kvm
def test_a_device_may_be_read_before_another_instruction_fails() -> None:
    """Only what KVM read for the failing instruction itself would be read twice."""
    code = VGA + "a01000" + POPCNT
    run = guest(firmware(code + EXIT), scripted(Done(Delta(len(bytes.fromhex(code)), 2))))

    assert run.run() == 0

    assert 1 == len(raw_exits(run))


def interrupted_by(completion: Completion) -> FakeDaemon:
    """A raw exit's completion is this, and brings the interrupt request."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        if isinstance(exit_, RawExit):
            daemon.interrupt = True
            return completion
        if isinstance(exit_, AcknowledgeExit):
            daemon.interrupt = False
            return Values(b"\x20")
        return ones(daemon, exit_)

    return FakeDaemon(answer)


@kvm
def test_an_interrupt_that_is_taken_behind_a_raw_exit_is_not_lost() -> None:
    """The instruction is in the shadow of STI: with its end the interrupt comes, at once."""
    code = STACK + IVT_20 + VGA + "fb" + POPCNT  # sti; popcnt
    done = Done(Delta(len(bytes.fromhex(code)), 0x202))
    run = guest(firmware(code + "ebfe", at_200="b007 e681" + EXIT), interrupted_by(done))

    assert run.run() == 0

    assert [("WRITE", 0x81, b"\7")] == ports(run)


BEFORE = STACK + IVT_20 + "c7063400 0003 c7063600 00f0" + "fb" + VGA + POPCNT
"""Vector 13 is f000:0300; with interrupts enabled, the instruction that is mmiod's."""


@kvm
@pytest.mark.parametrize("completion", [Fault(13, 0), Done(Delta(0x300, 2))])
def test_an_interrupt_waits_for_the_handler_or_the_flags_of_a_completion(completion: Completion) -> None:
    """A fault's handler, or code with IF clear as DONE says, runs on until its STI."""
    daemon = interrupted_by(completion)
    run = guest(firmware(BEFORE, at_300="e680 40 e682 fb ebfe", at_200="e681" + EXIT), daemon)

    assert run.run() == 0

    assert [0x80, 0x82, 0x81] == [port for _, port, _ in ports(run)]


@kvm
def test_an_interrupt_shadow_ends_with_an_instruction_that_mmiod_executed() -> None:
    """The one of STI, which KVM has seen, and which is gone at the next entry."""
    cpu = KvmCpu(Kvm.open(), GuestMemory.create(1, firmware("fb" + POPCNT + "ebfe")), lambda *_: b"")
    assert Touched() == cpu.run()
    shadow = abi.RUN_EVENTS + abi.EVENTS_SHADOW
    before = cpu.registers.run[shadow]

    cpu.apply(Delta(7, 0x202))
    cpu.arm(0, interrupt=False)
    assert Paused() == cpu.run()

    assert (True, 0, 7) == (before > 0, cpu.registers.run[shadow], cpu.state().rip)


@kvm
def test_what_mmiod_needs_is_sent_along() -> None:
    """More bytes, RAM and a translation, which without paging is the address itself."""
    daemon = scripted(
        NeedBytes(0xF0000, 2),
        NeedMemory(0xF0000, 3),
        NeedTranslation(0x6010, Intent.READ, 0),
        Retry(),
        Done(Delta(11, 2)),
    )
    run = guest(firmware(VGA + POPCNT + EXIT), daemon)

    assert run.run() == 0

    last = raw_exits(run)[-2]
    assert [(0xF0000, bytes.fromhex("b800a0"))] == last.memory
    assert {(0x6000, Intent.READ): 0x6000} == last.translations


@kvm
def test_a_triple_fault_resets_machine_and_vcpu() -> None:
    """An exception without IDT; after the reset registers are as they were at first."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        if daemon.resets:
            daemon.request("EXIT", 3)
        return ones(daemon, exit_)

    flat = "bb34120000 0f0b"  # mov ebx, 0x1234; ud2
    code = "e640 2e0f011e0002" + FLAT  # out 0x40, al; lidt cs:[0x200]
    run = guest(firmware(code, at_100=flat, at_7f0=GDTR, at_800=GDT), FakeDaemon(answer))
    fresh = run.vcpu.cpu.state()

    assert run.run() == 3

    assert [None] == [reset.vcpu for reset in run.daemon.resets]
    assert 2 == len(run.daemon.exits)
    run.vcpu.cpu.reset()
    assert fresh == run.vcpu.cpu.state()
    assert (0xFFF0, 0xFFFF0000) == (fresh.rip, fresh.segments[CS].base)


# --- the processor and the way to KVM ---------------------------------------------------------


def entries(processor: Processor) -> dict[int, list[int]]:
    """eax, ebx, ecx and edx of each leaf."""
    found = (
        abi.CPUID_ENTRY.unpack_from(processor.cpuid, place)
        for place in range(abi.CPUID_HEAD.size, len(processor.cpuid), abi.CPUID_ENTRY.size)
    )
    return {leaf: registers for leaf, _, _, *registers in found}


@kvm
def test_the_guests_processor_is_plain() -> None:
    """KVM is told of a 64-bit one with SSE2, without APIC, MTRRs, VMX, AVX and hypervisor leaves."""
    processor = Kvm.open().processor
    leaves = entries(processor)
    features, extended = leaves[1], leaves[0x8000_0001]

    assert (1, 0x8000_0008) == (leaves[0][0], leaves[0x8000_0000][0])
    assert {0x0000, 0x8000} == {leaf >> 16 for leaf in leaves}
    assert 0 == features[2] & ~(1 << 0 | 1 << 13)
    present, absent = 1 << 0 | 1 << 4 | 1 << 6 | 1 << 26, 1 << 9 | 1 << 12
    assert present == features[3] & (present | absent)
    assert 1 << 20 | 1 << 29 == extended[3] & (1 << 20 | 1 << 29)
    assert processor.physical_bits == leaves[0x8000_0008][0] & 0xFF


def test_vector_registers_are_given_to_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a processor that has everything: AVX with XSAVE, leaf 7 and the sizes of leaf 0xD, or none of it."""
    present = [0x0, 0x1, 0x7, 0xD, 0x8000_0000, 0x8000_0001, 0x8000_0008, 0x4000_0000]

    def everything(_descriptor: int, _request: int, image: bytearray) -> int:
        abi.CPUID_HEAD.pack_into(image, 0, len(present), 0)
        for number, leaf in enumerate(present):
            words = (
                0x16 if not leaf else 0x8000_0020 if leaf == 0x8000_0000 else 0xFFFF_FFFF,
                *3 * (0xFFFF_FFFF,),
            )
            place = abi.CPUID_HEAD.size + number * abi.CPUID_ENTRY.size
            abi.CPUID_ENTRY.pack_into(image, place, leaf, 0, 0, *words)
        return 0

    monkeypatch.setattr(kvm_cpuid, "ioctl", everything)
    plain, vectors = (entries(Processor.supported(0, vectors=given)) for given in (False, True))

    assert {0x7, 0xD} == vectors.keys() - plain.keys()
    assert ([1, 0x8000_0008], [0xD, 0x8000_0008]) == tuple(
        [leaves[0][0], leaves[0x8000_0000][0]] for leaves in (plain, vectors)
    )
    xsave_and_avx = 1 << 26 | 1 << 28
    assert (0, xsave_and_avx) == (plain[1][2] & xsave_and_avx, vectors[1][2] & xsave_and_avx)


@kvm
def test_the_guest_sees_that_processor() -> None:
    """CPUID 0 and 7 in the guest: the highest leaf is 1, and what is behind it is empty."""
    code = "6631c0 0fa2 66a30060 66b807000000 6631c9 0fa2 66891e0460" + EXIT
    run = guest(firmware(code), FakeDaemon())

    assert run.run() == 0

    assert (1, 0) == struct.unpack("<II", run.memory.read(0x6000, 8))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file"), "it is not there (modprobe kvm_intel or kvm_amd"),
        (PermissionError(13, "Permission denied"), "you may not open it (join its group, usually kvm)"),
        (OSError(19, "No such device"), "[Errno 19] No such device"),
    ],
)
def test_a_kvm_that_cannot_be_opened_is_told(
    error: OSError, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has what to do."""

    def fail(*_arguments: object) -> int:
        raise error

    monkeypatch.setattr(os, "open", fail)

    with pytest.raises(Unavailable) as caught:
        Kvm.open()

    assert str(caught.value).startswith(f"--accel kvm needs /dev/kvm: {words}")


def test_another_device_is_no_kvm() -> None:
    """A file that is not KVM says so."""
    with pytest.raises(Unavailable, match=r"--accel kvm needs /dev/null: .*Inappropriate ioctl"):
        Kvm.open("/dev/null")


@kvm
def test_a_kvm_that_lacks_something_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name."""
    monkeypatch.setitem(NEEDED, 9999, "telepathy")

    with pytest.raises(Unavailable, match="this kernel's KVM lacks telepathy"):
        Kvm.open()


@kvm
def test_controllers_in_the_kernel_need_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they need is asked for with them only."""
    monkeypatch.setitem(NEEDED_FOR_IRQCHIP, 9999, "clairvoyance")

    Kvm.open()
    with pytest.raises(Unavailable, match="this kernel's KVM lacks clairvoyance"):
        Kvm.open(irqchip=True)
