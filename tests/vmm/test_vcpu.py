from __future__ import annotations

import pytest

from mmiod.values import (
    CS,
    DS,
    ES,
    READ,
    WRITE,
    Completion,
    DecodedExit,
    Delta,
    Done,
    Exit,
    Forward,
    Intent,
    NeedBytes,
    NeedMemory,
    NeedRegisters,
    NeedTranslation,
    RawExit,
    Refusal,
    Refused,
    RegisterSet,
    Retry,
    Segment,
    Space,
    Unsupported,
    Values,
    VectorDelta,
)
from tests.vmm.fake import EXIT, GDT, GDTR, FakeDaemon, Run, firmware, guest, ones, ports

pytestmark = pytest.mark.needs("unicorn")

UNREAL = (
    "2e660f0116f007"  # lgdt cs:[0x7f0]
    "0f20c0 0c01 0f22c0"  # mov eax, cr0; or al, 1; mov cr0, eax
    "bb1000 8edb"  # mov bx, 0x10; mov ds, bx
    "24fe 0f22c0"  # and al, 0xfe; mov cr0, eax
)
FLAT = (
    "2e660f0116f007 0f20c0 0c01 0f22c0"  # lgdt cs:[0x7f0]; cr0.pe = 1
    "66ea 00010f00 0800"  # jmp 8:0xf0100
)


def raw_exits(run: Run) -> list[RawExit]:
    """The raw ones that the daemon executed."""
    return [exit_ for exit_, _ in run.daemon.exits if isinstance(exit_, RawExit)]


def scripted(*completions: Completion) -> FakeDaemon:
    """Answers raw exits with these completions in order."""
    script = list(completions)

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        return script.pop(0) if isinstance(exit_, RawExit) else ones(daemon, exit_)

    return FakeDaemon(answer)


def test_the_reset_vector_is_fetched_from_the_rom_below_4_gib() -> None:
    """The first instruction comes from 0xfffffff0, with CS the only segment that is not at 0."""
    run = guest(firmware(EXIT), FakeDaemon())
    state = run.vcpu.cpu.state()

    assert Segment(0xFFFF0000, 0xFFFF, 0xF000, 0x9B) == state.segments[CS]
    assert Segment(0, 0xFFFF, 0, 0x93) == state.segments[DS]
    assert (0xFFF0, 2, 0x60000010) == (state.rip, state.rflags, state.cr0)
    assert bytes.fromhex("ea 0000 00f0") == run.vcpu.cpu.code()[:5]
    assert run.run() == 0


def test_port_accesses_go_out_with_their_size() -> None:
    """IN and OUT of 1, 2 and 4 bytes are decoded exits of one element, and IN gets the value."""
    daemon = FakeDaemon(lambda _daemon, exit_: Values(bytes(range(0x11, 0x11 + exit_.size))))  # type: ignore[union-attr]
    code = "ba3412 ec ee ed ef 66ed 66ef" + EXIT  # mov dx, 0x1234; in/out al, ax, eax
    run = guest(firmware(code), daemon)

    assert run.run() == 0

    expected = [
        (READ, 1, b""),
        (WRITE, 1, b"\x11"),
        (READ, 2, b""),
        (WRITE, 2, b"\x11\x12"),
        (READ, 4, b""),
        (WRITE, 4, b"\x11\x12\x13\x14"),
    ]
    exits = [exit_ for exit_, _ in daemon.exits][:-1]
    assert [
        DecodedExit(0, at + 1, Space.PIO, d, 0x1234, s, data=b) for at, (d, s, b) in enumerate(expected)
    ] == exits


def test_string_output_is_one_exit_for_each_element() -> None:
    """REP OUTSB sends its elements in order, and SI and CX end as on hardware."""
    code = (
        "b90300 be0003 ba0204 2ef36e 89c8 e680 89f0 e681" + EXIT
    )  # rep outs dx, cs:[si]; cx and si to ports
    run = guest(firmware(code, at_300="616263"), FakeDaemon())

    assert run.run() == 0

    assert [
        ("WRITE", 0x402, b"a"),
        ("WRITE", 0x402, b"b"),
        ("WRITE", 0x402, b"c"),
        ("WRITE", 0x80, b"\0"),
        ("WRITE", 0x81, b"\3"),
    ] == ports(run)


def test_an_mmio_write_is_a_raw_exit_at_the_instruction() -> None:
    """The exit has the bytes, the registers before the instruction, the address and the intent."""
    code = "b800b8 8ed8 b84142 a34433" + EXIT  # mov ds, 0xb800; mov ax, 0x4241; mov [0x3344], ax
    daemon = scripted(Done(Delta(rip=0xB, rflags=2)))
    run = guest(firmware(code), daemon)

    assert run.run() == 0

    (exit_,) = raw_exits(run)
    assert (0xBB344, Intent.WRITE) == (exit_.gpa, exit_.intent)
    assert 15 == len(exit_.code)
    assert bytes.fromhex("a34433") == exit_.code[:3]
    assert (8, 0x4241) == (exit_.state.rip, exit_.state.gpr[0] & 0xFFFF)
    assert Segment(0xB8000, 0xFFFF, 0xB800, 0x93) == exit_.state.segments[DS]


def test_a_delta_is_applied() -> None:
    """Registers, flags, RIP and RAM are what DONE says."""
    code = "b800b8 8ed8 a0000090 90e680 7501 f4 9c 58 e781 31c08ed8 a00005 e682" + EXIT
    done = Done(Delta(rip=10, rflags=0x2 | 0x800, registers={0: 0x1234_5678}, memory=[(0x500, b"\x5a")]))
    run = guest(firmware(code), scripted(done))

    assert run.run() == 0

    assert [
        ("WRITE", 0x80, b"\x78"),
        ("WRITE", 0x81, (0x802).to_bytes(2, "little")),
        ("WRITE", 0x82, b"\x5a"),
    ] == ports(run)


def test_a_loaded_segment_is_applied() -> None:
    """The guest goes on with the segment that DONE brings."""
    code = "b800b8 8ed8 a14433 26c60634125a" + EXIT  # mov ax, [0xb8000 + 0x3344]; mov byte es:[0x1234], 0x5a
    es = Segment(0x60000, 0xFFFF, 0x6000, 0x93)
    run = guest(firmware(code), scripted(Done(Delta(rip=8, rflags=2, segments={ES: es}))))

    assert run.run() == 0

    assert b"\x5a" == run.memory.read(0x61234, 1)


def test_a_rep_that_is_not_done_comes_back() -> None:
    """With RIP held and CX reduced, the rest goes out as another exit."""
    code = "b800b8 8ec0 31ff b90500 f3aa 89c8 e680" + EXIT  # es = 0xb800; rep stosb, 5 times
    first = Done(Delta(rip=0xA, rflags=2, registers={1: 2, 7: 3}))
    rest = Done(Delta(rip=0xC, rflags=2, registers={1: 0, 7: 5}))
    run = guest(firmware(code), scripted(first, rest))

    assert run.run() == 0

    assert [(5, 0, 0xB8000), (2, 3, 0xB8003)] == [
        (exit_.state.gpr[1], exit_.state.gpr[7], exit_.gpa) for exit_ in raw_exits(run)
    ]
    assert [("WRITE", 0x80, b"\0")] == ports(run)


def test_a_string_that_reaches_mmio_stops_at_that_iteration() -> None:
    """REP MOVSB from RAM into the VGA hole: the iterations in RAM are done, none is done twice."""
    code = "b80190 8ed8 8ec0 be0000 bfeeff b90400 f3a4" + EXIT  # 4 bytes from 9001:0 to 9001:ffee
    done = Done(Delta(rip=0x12, rflags=2, registers={1: 0}))
    run = guest(firmware(code), scripted(done))
    run.memory.write(0x90010, b"abcd")

    assert run.run() == 0

    (exit_,) = raw_exits(run)
    assert (0xA0000, 2) == (exit_.gpa, exit_.state.gpr[1])
    assert b"ab" == run.memory.read(0x9FFFE, 2)


def test_unreal_mode_is_told_as_it_is() -> None:
    """Back in real mode, DS keeps the limit and the base that it got in protected mode."""
    code = UNREAL + "66b80000c0fe 678a00" + EXIT  # mov eax, 0xfec00000; mov al, [eax]
    run = guest(firmware(code, at_7f0=GDTR, at_800=GDT), scripted(Done(Delta(0x22, 2, {0: 0x77}))))

    assert run.run() == 0

    (exit_,) = raw_exits(run)
    assert 0xFEC00000 == exit_.gpa
    assert not exit_.state.cr0 & 1
    assert Segment(0, 0xFFFFFFFF, 0x10, 0xC093) == exit_.state.segments[DS]


def test_protected_mode_segments_have_base_limit_and_attributes() -> None:
    """Flat 32-bit code touches the local APIC's page, which is an address like any other."""
    flat = "66b81000 8ed8 a1f000e0fe" + EXIT  # mov ds, 0x10; mov eax, [0xfee000f0]
    image = firmware(FLAT, at_100=flat, at_7f0=GDTR, at_800=GDT)
    run = guest(image, scripted(Done(Delta(0xF010B, 2, {0: 0}))))

    assert run.run() == 0

    (exit_,) = raw_exits(run)
    assert (0xFEE000F0, Intent.READ) == (exit_.gpa, exit_.intent)
    assert Segment(0, 0xFFFFFFFF, 8, 0xC09B) == exit_.state.segments[CS]
    assert Segment(0xF0800, 0x27, 0, 0) == exit_.state.gdtr
    assert 0xF0106 == exit_.state.rip


PAGING = (
    "c7050010000083000000 c70504100000{entry}b800100000 0f22d8 0f20e0 83c810 0f22e0 0f20c0 0d00000080 0f22c0"
)
"""A page directory at 0x1000, of 4 MiB pages: 0 is itself, 0x400000 as `entry` says; then paging on."""


def test_under_paging_the_address_is_physical_and_the_bytes_are_found() -> None:
    """A linear page mapped to MMIO: the exit has its physical address and the instruction's bytes."""
    flat = "66b81000 8ed8" + PAGING.format(entry="8300c0fe") + "a120004000" + EXIT
    after = 0xF0100 + len(bytes.fromhex(flat)) - len(bytes.fromhex(EXIT))
    translated = NeedTranslation(0x400020, Intent.READ, 0)
    daemon = scripted(translated, Done(Delta(after, 2)))
    run = guest(firmware(FLAT, at_100=flat, at_7f0=GDTR, at_800=GDT), daemon)

    assert run.run() == 0

    bare, supplied = raw_exits(run)
    assert 0xFEC00020 == bare.gpa
    assert bytes.fromhex("a120004000") == bare.code[:5]
    assert {(0x400000, Intent.READ): 0xFEC00000} == supplied.translations


def test_what_mmiod_needs_is_sent_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """need-bytes appends bytes, need-memory adds RAM, each under a new sequence number."""
    from mmiod.vmm.unicorn import UnicornCpu  # noqa: PLC0415

    code = "b800b8 8ed8 a00000" + EXIT
    daemon = scripted(NeedBytes(0xF0006, 2), NeedMemory(0xF0000, 3), Retry(), Done(Delta(8, 2)))
    run = guest(firmware(code), daemon)
    monkeypatch.setattr(UnicornCpu, "code", lambda _cpu: b"\xa0")

    assert run.run() == 0

    first, more, memory, again = raw_exits(run)
    assert [1, 2, 3, 4] == [exit_.sequence for exit_ in (first, more, memory, again)]
    assert (b"\xa0", bytes.fromhex("a00000")) == (first.code, more.code)
    assert [(0xF0000, bytes.fromhex("b800b8"))] == memory.memory
    assert (first.code, []) == (again.code, again.memory)


def test_vector_registers_go_along_when_asked_for_and_come_back() -> None:
    """XMM3 as the guest set it, control words as a reset did (SDM vol. 3, table 10-1).

    What DONE changes is there for the guest's next instruction.
    """
    code = "b800b8 8ed8 0f20e0 80cc02 0f22e0"  # ds = 0xb800; cr4.osfxsr = 1
    code += "b80100 660f6ed8 a00000"  # mov eax, 1 (16 bits of it); movd xmm3, eax; mov al, [0]
    after = len(bytes.fromhex(code))
    changed = VectorDelta(xmm={3: 0x1234})
    daemon = scripted(
        NeedRegisters(RegisterSet.SSE | RegisterSet.X87), Done(Delta(after, 2, vectors=changed))
    )
    run = guest(firmware(code + "660f7ed8 e740" + EXIT), daemon)  # movd eax, xmm3; out 0x40, ax

    assert run.run() == 0

    bare, supplied = raw_exits(run)
    assert bare.state.extended is None
    assert supplied.state.extended is not None
    assert (0x40, 1, 0x1F80) == (
        int.from_bytes(supplied.state.extended.x87[:2], "little"),
        supplied.state.extended.zmm[3] & 0xFFFF,
        int.from_bytes(supplied.state.extended.x87[24:28], "little"),
    )
    assert [("WRITE", 0x40, b"\x34\x12")] == ports(run)


BREAKPOINT = "c7060400 0002 c7060600 00f0 66b800000b00 0f23c0 66b801030700 0f23f8"
"""Vector 1 is f000:0200; mov dr0, 0xb0000; mov dr7, 0x70301."""
TRAPPED = "58 e741 0f21f0 e742" + EXIT
"""The handler tells the address that it returns to, and DR6."""


def met(after: int) -> FakeDaemon:
    """Asks for DR0-3, then has met DR0's breakpoint behind an instruction."""
    return scripted(NeedRegisters(RegisterSet.DEBUG), Done(Delta(after, 2, debug=1)))


def check_trapped(run: Run, after: int) -> None:
    """DR0 came along, and #DB reached the handler."""
    assert run.run() == 0
    supplied = raw_exits(run)[-1].state.extended
    assert supplied is not None
    assert 0xB0000 == supplied.dr[0]
    (_, _, address), (_, _, status) = ports(run)
    assert (after, 1) == (int.from_bytes(address, "little"), status[0] & 0xF)


def test_a_breakpoint_that_mmiod_met_reaches_the_guests_handler() -> None:
    """DR0-3 come along when asked for; DONE with debug bits is #DB behind it, with those in DR6."""
    code = "bc0070" + BREAKPOINT + "b800b8 8ed8 a00000"
    after = len(bytes.fromhex(code))
    check_trapped(guest(firmware(code + "ebfe", at_200=TRAPPED), met(after)), after)


@pytest.mark.parametrize(
    ("completion", "words"),
    [
        (Unsupported(bytes.fromhex("a00000")), "does not execute this instruction (it looked at a0 00 00)"),
        (Refused(Refusal.ADDRESS_MISMATCH), "refuses the exit: ADDRESS_MISMATCH"),
        (Forward(), "nobody claims this address"),
        (NeedRegisters(RegisterSet.AVX), "Unicorn has no registers <RegisterSet.AVX: 4>"),
        (NeedMemory(0xA0000, 8), "no guest RAM of 8 bytes at 0xa0000"),
        (NeedBytes(0xA0000, 8), "no instruction bytes at linear address 0xa0000"),
    ],
)
def test_what_cannot_go_on_stops_with_a_reason(completion: Completion, words: str) -> None:
    """The message has the verdict; the run ends, nothing is skipped."""
    from mmiod.vmm.vcpu import Stuck  # noqa: PLC0415

    run = guest(firmware("b800b8 8ed8 a00000" + EXIT), scripted(completion))

    with pytest.raises(Stuck) as caught:
        run.run()

    assert words in str(caught.value)


def test_an_instruction_in_mmio_is_sent_without_bytes() -> None:
    """A jump into the VGA hole: no bytes, intent to execute."""
    from mmiod.vmm.vcpu import Stuck  # noqa: PLC0415

    run = guest(firmware("ea 1000 00b8"), scripted(Refused(Refusal.MMIO_FETCH)))

    with pytest.raises(Stuck, match=r"MMIO_FETCH.*b800:00000010"):
        run.run()

    (exit_,) = raw_exits(run)
    assert (b"", 0xB8010, Intent.EXECUTE, 0x10) == (exit_.code, exit_.gpa, exit_.intent, exit_.state.rip)


def test_a_write_to_the_rom_is_an_exit() -> None:
    """The firmware's page below 4 GiB is read as memory, and written as MMIO."""
    code = UNREAL + "66b80000ffff 678a18 678800" + EXIT  # mov eax, 0xffff0000; mov bl, [eax]; mov [eax], al
    run = guest(firmware(code, at_7f0=GDTR, at_800=GDT), scripted(Done(Delta(0x25, 2))))

    assert run.run() == 0

    (exit_,) = raw_exits(run)
    assert (0xFFFF0000, Intent.WRITE, 0x2E) == (exit_.gpa, exit_.intent, exit_.state.gpr[3] & 0xFF)
