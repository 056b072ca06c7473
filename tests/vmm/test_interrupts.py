from __future__ import annotations

import pytest

from mmiod.protocol.exit import replies
from mmiod.values import (
    AcknowledgeExit,
    Completion,
    DecodedExit,
    Delta,
    Done,
    Exit,
    Fault,
    HaltExit,
    RawExit,
    Values,
)
from tests.vmm.fake import EXIT, GDT, GDTR, IVT_20, FakeDaemon, firmware, guest, ones, ports
from tests.vmm.test_vcpu import FLAT, PAGING, scripted

pytestmark = pytest.mark.needs("unicorn")

STACK = "bc0070"
"""mov sp, 0x7000 (SS is 0)."""
IDTR = "ffff 00000200"
"""At offset 0x7e0: the IDT is at 0x20000."""
IDT_FLAT = FLAT.replace("2e660f0116f007", "2e660f0116f007 2e660f011ee007")
FLAT_DATA = "66b81000 8ed8 8ed0 bc00700000"
"""Data and stack are flat, ESP is 0x7000."""


def gate(vector: int, kind: int, offset: int, selector: int = 8) -> str:
    """Instructions of flat code that write an IDT entry."""
    low, high = selector << 16 | offset & 0xFFFF, offset & 0xFFFF0000 | kind << 8
    at = 0x20000 + 8 * vector
    return "".join(
        "c705" + (at + part).to_bytes(4, "little").hex() + value.to_bytes(4, "little").hex()
        for part, value in ((0, low), (4, high))
    )


def interrupting(vector: int = 0x20) -> FakeDaemon:
    """Port 0x99 raises the interrupt request, INTA takes it away."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        if isinstance(exit_, DecodedExit) and exit_.address == 0x99:
            daemon.interrupt = True
        if isinstance(exit_, AcknowledgeExit):
            daemon.interrupt = False
            return Values(bytes([vector]))
        return Values() if isinstance(exit_, HaltExit) else ones(daemon, exit_)

    return FakeDaemon(answer)


def test_a_software_interrupt_goes_through_the_vector_table() -> None:
    """INT pushes FLAGS, CS and IP and clears IF; IRET comes back behind it."""
    handler = "9c 58 e781 5b e682 53 b081 e683 cf"  # flags; return address on top: pop, push
    code = STACK + IVT_20 + "fb cd20 9c 58 e784" + EXIT
    run = guest(firmware(code, at_200=handler), FakeDaemon())

    assert run.run() == 0

    flags, _, marker, after = (int.from_bytes(data, "little") for _, _, data in ports(run))
    assert (0x002, 0x81, 0x202) == (flags & 0x202, marker, after & 0x202)
    frame = int.from_bytes(run.memory.read(0x6FFA, 6), "little")
    assert 0xF000 << 16 | 0x12 == frame & 0xFFFFFFFF
    assert frame >> 32 & 0x200


def test_hlt_waits_for_an_interrupt_which_is_asked_for_and_delivered() -> None:
    """EXIT_HALT, EXIT_INTA, the handler, then what follows HLT."""
    code = STACK + IVT_20 + "e699 fb f4 b001 e681" + EXIT
    run = guest(firmware(code, at_200="b002 e681 cf"), interrupting())

    assert run.run() == 0

    kinds = [type(exit_) for exit_, _ in run.daemon.exits]
    assert [DecodedExit, HaltExit, AcknowledgeExit, DecodedExit, DecodedExit, DecodedExit] == kinds
    assert [b"\2", b"\1"] == [data for _, port, data in ports(run) if port == 0x81]


def test_an_interrupt_waits_for_if_and_for_the_shadow_of_sti() -> None:
    """Pending while IF is 0: taken behind the instruction that follows STI, not a moment later."""
    code = STACK + IVT_20 + "31db e699 43 43 fb 43 43 43" + EXIT  # inc bx before and after sti
    run = guest(firmware(code, at_200="88d8 e681 cf"), interrupting())

    assert run.run() == 0

    assert [b"\3"] == [data for _, port, data in ports(run) if port == 0x81]


def test_a_window_of_one_instruction_is_enough() -> None:
    """`sti; nop; cli`, as firmware lets interrupts in."""
    code = STACK + IVT_20 + "31db e699 43 fb 90 fa 43" + EXIT
    run = guest(firmware(code, at_200="88d8 e681 cf"), interrupting())

    assert run.run() == 0

    assert [b"\1"] == [data for _, port, data in ports(run) if port == 0x81]


def test_an_interrupt_breaks_into_a_loop_without_exits() -> None:
    """INTR that comes while the guest spins is seen and taken."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        if isinstance(exit_, AcknowledgeExit):
            return Values(b"\x20")
        if isinstance(exit_, DecodedExit) and exit_.address == 0x98:
            daemon.later.append(replies.intr(0, level=True))
        return ones(daemon, exit_)

    code = STACK + IVT_20 + "fb e698 ebfe"
    run = guest(firmware(code, at_200=EXIT), FakeDaemon(answer))

    assert run.run() == 0


def test_a_level_that_went_away_interrupts_nobody() -> None:
    """The last word about the level counts."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        if isinstance(exit_, DecodedExit):
            daemon.interrupt = exit_.address == 0x99
        return ones(daemon, exit_)

    code = STACK + "e699 e698 fb 90 90" + EXIT
    run = guest(firmware(code), FakeDaemon(answer))

    assert run.run() == 0

    assert [DecodedExit] * 3 == [type(exit_) for exit_, _ in run.daemon.exits]


@pytest.mark.parametrize(("kind", "flag"), [(0x8E, 0), (0x8F, 0x200)])
def test_protected_mode_goes_through_the_idt(kind: int, flag: int) -> None:
    """An interrupt gate clears IF, a trap gate does not; IRETD comes back."""
    handler = "9c 58 6689c2 66e780 cf".replace("6689c2", "")  # pushfd; pop eax; out 0x80, ax; iretd
    flat = FLAT_DATA + gate(0x30, kind, 0xF0200) + "fb cd30 b003 e681" + EXIT
    run = guest(
        firmware(IDT_FLAT, at_100=flat, at_200=handler, at_7f0=GDTR, at_7e0=IDTR, at_800=GDT), FakeDaemon()
    )

    assert run.run() == 0

    (_, _, flags), (_, _, marker) = ports(run)
    assert (flag, b"\3") == (int.from_bytes(flags, "little") & 0x200, marker)


def test_exceptions_with_error_codes_can_come_again() -> None:
    """A second #GP is a #GP, with its error code on the stack; it is no double fault."""
    # pop eax (error code); out; add dword [esp], 2: go on behind the instruction
    handler = "58 66e780 83042402 cf"
    bad = "b810100000 8ed8"  # mov eax, 0x1010; mov ds, ax: beyond the GDT's limit
    flat = FLAT_DATA + gate(13, 0x8E, 0xF0200) + bad + bad + EXIT
    run = guest(
        firmware(IDT_FLAT, at_100=flat, at_200=handler, at_7f0=GDTR, at_7e0=IDTR, at_800=GDT), FakeDaemon()
    )

    assert run.run() == 0

    assert [("WRITE", 0x80, b"\x10\x10")] * 2 == ports(run)


def test_an_invalid_opcode_is_an_exception() -> None:
    """#UD goes through vector 6, with IP at the instruction."""
    table = "c7061800 0002 c7061a00 00f0"  # vector 6 is f000:0200
    run = guest(firmware(STACK + table + "0f0b", at_200="58 e780" + EXIT), FakeDaemon())

    assert run.run() == 0

    assert [("WRITE", 0x80, (15).to_bytes(2, "little"))] == ports(run)


def test_a_fault_of_the_completion_is_raised_in_the_guest() -> None:
    """FAULT applies its delta, sets CR2 and pushes the error code in protected mode."""
    handler = "58 66e780 0f20d0 66e782 58 66e784" + EXIT  # error code, cr2, eip
    flat = FLAT_DATA + gate(14, 0x8E, 0xF0200) + "a1000000fe"
    image = firmware(IDT_FLAT, at_100=flat, at_200=handler, at_7f0=GDTR, at_7e0=IDTR, at_800=GDT)
    fault = Fault(14, 2, 0x1234, Delta(0xF0150, 2, {3: 5}))
    run = guest(image, scripted(fault))

    assert run.run() == 0

    assert [b"\2\0", b"\x34\x12", b"\x50\x01"] == [data for _, _, data in ports(run)]
    assert 5 == run.vcpu.cpu.state().gpr[3]


def test_a_vector_without_gate_is_a_triple_fault_and_resets(capsys: pytest.CaptureFixture[str]) -> None:
    """As firmware reboots at last: an exception with an empty IDT resets devices and CPU; RAM is kept."""
    # the first time [0x600] is 0: set it and lidt an empty table, then int3; the second time: done
    code = "803e000600 750b fe060006 2e0f011ee007 cc" + EXIT
    run = guest(firmware(code, at_7e0="0000 00000000"), FakeDaemon())

    assert run.run() == 0

    assert [None] == [reset.vcpu for reset in run.daemon.resets]
    assert "triple fault" in capsys.readouterr().err


def test_a_request_resets_and_memory_stays() -> None:
    """REQUEST RESET from a port write: RESET goes to the daemon, the CPU starts again, RAM is kept."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        if isinstance(exit_, DecodedExit) and exit_.address == 0x64:
            daemon.request("RESET")
        return ones(daemon, exit_)

    code = "803e000600 750afe060006 b0fe e664 e665" + EXIT  # nothing runs behind out 0x64
    run = guest(firmware(code), FakeDaemon(answer))

    assert run.run() == 0

    assert [("WRITE", 0x64, b"\xfe")] == ports(run)
    assert [None] == [reset.vcpu for reset in run.daemon.resets]
    assert b"\1" == run.memory.read(0x600, 1)


def test_a_request_ends_a_halt() -> None:
    """A HLT with nothing pending is dropped by the reset; its number is not used again."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        if isinstance(exit_, HaltExit):
            daemon.request("RESET")
        return ones(daemon, exit_)

    code = "803e000600 7506fe060006 fb f4" + EXIT
    run = guest(firmware(code), FakeDaemon(answer))

    assert run.run() == 0

    assert [(HaltExit, 1), (DecodedExit, 2)] == [
        (type(exit_), exit_.sequence) for exit_, _ in run.daemon.exits
    ]


def test_hlt_with_interrupts_off_waits_for_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    """`cli; hlt` asks for nothing, says so, and a shutdown ends it."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        daemon.request("SHUTDOWN")
        return ones(daemon, exit_)

    run = guest(firmware("fa f4"), FakeDaemon())
    run.daemon.request("SHUTDOWN")

    assert run.run() == 0
    assert [] == run.daemon.exits

    late = guest(firmware("fb e680 fa f4"), FakeDaemon(answer))

    assert late.run() == 0
    assert not any(isinstance(exit_, HaltExit | RawExit) for exit_, _ in late.daemon.exits)
    capsys.readouterr()


def test_delivery_that_is_not_done_is_said() -> None:
    """A stack in the VGA hole: the run ends with the reason and the place."""
    from mmiod.vmm.vcpu import Stuck  # noqa: PLC0415

    run = guest(firmware("b800b8 8ed0 bc1000 cd20"), FakeDaemon())

    with pytest.raises(Stuck, match=r"stack that is not RAM: 2 bytes at 0xb800e .*f000:0000000a"):
        run.run()


@pytest.mark.parametrize(
    ("before", "entry", "words"),
    [
        ("", gate(0x30, 0x85, 0), "vector 0x30 through a task gate"),
        ("", gate(0x30, 0xEE, 0xF0200, 0x28), "with a change of privilege"),
        (PAGING.format(entry="83000000"), gate(0x30, 0x8E, 0xF0200), "with paging"),
    ],
)
def test_gates_that_are_not_done_are_said(before: str, entry: str, words: str) -> None:
    """Task gates, code of another privilege level, and delivery under paging."""
    from mmiod.vmm.vcpu import Stuck  # noqa: PLC0415

    ring_3 = GDT + "ffff000000fbcf00"  # selector 0x28
    flat = FLAT_DATA + entry + before + "cd30"
    places = {"at_7f0": "2f00 00080f00", "at_7e0": IDTR, "at_800": ring_3}
    run = guest(firmware(IDT_FLAT, at_100=flat, **places), FakeDaemon())

    with pytest.raises(Stuck, match=words):
        run.run()


@pytest.mark.parametrize("entry", ["", gate(0x30, 0x0E, 0xF0200), gate(0x30, 0x8E, 0xF0200, 0x10)])
def test_gates_that_cannot_be_used_reset(entry: str) -> None:
    """No gate, one that is not present, one of a data segment: devices and CPU are reset."""
    run = guest(
        firmware(IDT_FLAT, at_100=FLAT_DATA + entry + "cd30", at_7f0=GDTR, at_7e0=IDTR, at_800=GDT),
        FakeDaemon(),
    )

    with pytest.raises(AssertionError, match="the guest resets for ever"):
        run.run()


def test_done_ends_at_its_rip() -> None:
    """The interrupt that a completion announces is taken behind the completed instruction."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        if isinstance(exit_, RawExit):
            daemon.interrupt = True
            return Done(Delta(exit_.state.rip + 3, exit_.state.rflags))
        if isinstance(exit_, AcknowledgeExit):
            daemon.interrupt = False
            return Values(b"\x20")
        return ones(daemon, exit_)

    code = STACK + IVT_20 + "b800b8 8ed8 fb a00000 b001 e681" + EXIT
    run = guest(firmware(code, at_200="b002 e681 cf"), FakeDaemon(answer))

    assert run.run() == 0

    assert [b"\2", b"\1"] == [data for _, _, data in ports(run)]
