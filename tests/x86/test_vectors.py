"""Vector moves where no oracle looks: what is asked for, what is accessed, what faults."""

from __future__ import annotations

from typing import Final

import pytest

from mmiod.values import ExtendedState, NeedRegisters, RegisterSet, VcpuState, VectorDelta
from mmiod.x86 import GuestFault, Mode, Suspend
from tests.x86.oracle import Driver, Effect
from tests.x86.states import PE, VM, execute, fault_of, flat, real

X87, SSE, AVX, AVX512 = RegisterSet.X87, RegisterSet.SSE, RegisterSet.AVX, RegisterSet.AVX512
UD, NM, GP, PF, MF = 6, 7, 13, 14, 16
EM, TS = 1 << 2, 1 << 3
OSFXSR, OSXSAVE = 1 << 9, 1 << 18
ALL: Final = X87 | SSE | AVX | AVX512
DATA: Final = 0x20000


def vcpu(**registers: object) -> VcpuState:
    """64-bit code that may use every register, RAX pointing at the data; none is known."""
    state = flat(Mode.CODE64, cr4=OSFXSR | OSXSAVE, xcr0=0xE7, rax=DATA)
    for name, value in registers.items():
        setattr(state, name, value)
    return state


def known(mask: int = 0) -> ExtendedState:
    """Registers full of their own number; k1 is `mask`."""
    zmm = [int.from_bytes(bytes([number + 1]) * 64) for number in range(32)]
    return ExtendedState(ALL, zmm, [0, mask, 0, 0, 0, 0, 0, 0], bytes(160))


def asked(code: str, state: VcpuState | None = None) -> RegisterSet | None:
    """The register sets that an instruction asks for before it touches memory, if any."""
    driver = Driver()
    try:
        execute(code, state or vcpu(), driver)
    except Suspend as stop:
        completion = stop.completion
    else:
        return None
    assert isinstance(completion, NeedRegisters)
    assert ([], []) == (driver.trace, driver.probes)
    return completion.registers


# --- registers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "sets"),
    [
        ("f30f6f00", None),  # movdqu xmm0, [rax]
        ("c5fe6f00", None),  # vmovdqu ymm0, [rax]
        ("62f17f486f00", None),  # vmovdqu8 zmm0, [rax]
        ("c4e2791800", None),  # vbroadcastss xmm0, [rax]
        ("c5f89000", None),  # kmovw k0, [rax]
        ("f30f7f00", SSE),  # movdqu [rax], xmm0
        ("c5fe7f00", SSE | AVX),  # vmovdqu [rax], ymm0
        ("62f17f487f00", SSE | AVX | AVX512),  # vmovdqu8 [rax], zmm0
        ("62e17f087f00", AVX512),  # vmovdqu8 [rax], xmm16
        ("c5f89100", AVX512),  # kmovw [rax], k0
        ("0f1200", SSE),  # movlps xmm0, [rax]
        ("c5f01200", SSE),  # vmovlps xmm0, xmm1, [rax]
        ("c4e2752c00", SSE | AVX),  # vmaskmovps ymm0, ymm1, [rax]
        ("62f17f896f00", AVX512),  # vmovdqu8 xmm0{k1}{z}, [rax]
        ("62f17f096f00", SSE | AVX512),  # vmovdqu8 xmm0{k1}, [rax]
        ("62f17f296f00", SSE | AVX | AVX512),  # vmovdqu8 ymm0{k1}, [rax]
        ("0f6f00", X87),  # movq mm0, [rax]
    ],
)
def test_only_what_matters_is_asked_for(code: str, sets: RegisterSet | None) -> None:
    """A set is asked for before any access, if the result depends on it; a whole load needs none."""
    assert sets == asked(code)
    assert None is asked(code, vcpu(extended=known()))


def test_what_was_known_is_asked_for_again() -> None:
    """The next exit brings all sets at once, so that the instruction does not ask in turns."""
    assert X87 | SSE | AVX == asked("c5fe7f00", vcpu(extended=ExtendedState(X87)))


def test_legacy_keeps_what_vex_clears() -> None:
    """SDM vol. 1, 14.1.1.2: bits above the vector's are kept by legacy SSE, zeroed by VEX and EVEX."""
    read = Driver().memory.read(DATA, 16)

    assert VectorDelta(xmm={1: read}) == execute("f30f6f08", vcpu()).vectors
    assert VectorDelta(zmm={1: read}) == execute("c5fa6f08", vcpu()).vectors
    assert VectorDelta(zmm={17: read}) == execute("62e17f086f08", vcpu()).vectors


# --- accesses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "mask", "accesses"),
    [
        ("62f17f487f00", 0, [("write", 0, 64)]),  # vmovdqu8 [rax], zmm0: one access
        ("62f17f497f00", 0xF0F1, [("write", 0, 1), ("write", 4, 4), ("write", 12, 4)]),
        ("62f17e496f00", 0x8001, [("read", 0, 4), ("read", 60, 4)]),  # vmovdqu32 zmm0{k1}, [rax]
        ("62f17e496f00", 0xFFFF, [("read", 0, 64)]),
        ("62f17e496f00", 0, []),
        ("62f17e091000", 0, []),  # vmovss xmm0{k1}, [rax]
        ("62f17e091000", 1, [("read", 0, 4)]),
        ("62f27d495a00", 0x1110, [("read", 0, 4)]),  # vbroadcasti32x4 zmm0{k1}, [rax]
        ("62f27d495a00", 0x0012, [("read", 0, 8)]),
        ("62f27d493100", 0x8001, [("read", 0, 1), ("read", 15, 1)]),  # vpmovzxbd zmm0{k1}, [rax]
        ("62f17e091200", 0, [("read", 0, 16)]),  # vmovsldup xmm0{k1}: no fault suppression (E4NF)
        ("62f1ff091200", 0, [("read", 0, 8)]),  # vmovddup xmm0{k1} (E5NF)
    ],
)
def test_masked_out_elements_are_not_touched(
    code: str, mask: int, accesses: list[tuple[str, int, int]]
) -> None:
    """Runs of active elements are one access each, probed before all; others are not even probed."""
    driver = Driver()
    execute(code, vcpu(extended=known(mask)), driver)

    assert accesses == [(one.kind, one.address - DATA, one.size) for one in driver.trace]
    assert [(at, size) for _, at, size in accesses] == [
        (probe.address - DATA, probe.size) for probe in driver.probes
    ]


def test_a_fault_in_any_element_comes_before_every_access() -> None:
    """The last of three runs lies on a page that is not there: nothing was read."""
    driver = Driver(
        interfere=lambda probe: GuestFault(PF, 0, probe.address) if probe.address > DATA + 8 else None
    )

    with pytest.raises(GuestFault):
        execute("62f17e496f00", vcpu(extended=known(0x8101)), driver)
    assert [] == driver.trace


@pytest.mark.parametrize(
    ("code", "mask", "fault"),
    [
        ("0f2800", 0, (GP, 0)),  # movaps
        ("c5fd6f00", 0, (GP, 0)),  # vmovdqa ymm
        ("660f382a00", 0, (GP, 0)),  # movntdqa
        ("f30f1200", 0, (GP, 0)),  # movsldup: legacy needs it
        ("c5fa1200", 0, None),  # vmovsldup: VEX does not
        ("660f382000", 0, None),  # pmovsxbw reads 8 bytes
        ("62f17c492800", 0x8000, (GP, 0)),  # vmovaps zmm0{k1}: the operand's address counts
        ("62f17c492800", 0, None),  # ... unless nothing is moved
    ],
)
def test_alignment(code: str, mask: int, fault: tuple[int, int] | None) -> None:
    """SDM vol. 1, 14.9: operands that have to be aligned raise #GP(0), whatever the segment."""
    state = vcpu(extended=known(mask))
    state.gpr[0] = DATA + 8

    assert fault == fault_of(code, state)
    state.gpr[0] = DATA + 64
    assert fault_of(code, state) is None


# --- what the guest has to enable --------------------------------------------------------

MOVDQU, MOVQ_MM, VMOVDQU, EVEX_MOVDQU8, KMOVW, ANDN = (
    "f30f6f00",
    "0f6f00",
    "c5fe6f00",
    "62f17f486f00",
    "c5f89000",
    "c4e270f200",
)


@pytest.mark.parametrize(
    ("registers", "faults"),
    [
        ({}, {}),
        ({"cr0": PE | EM}, {MOVDQU: UD, MOVQ_MM: UD}),
        ({"cr0": PE | TS}, dict.fromkeys((MOVDQU, MOVQ_MM, VMOVDQU, EVEX_MOVDQU8, KMOVW), NM)),
        (
            {"cr0": PE | TS | EM},
            {MOVDQU: UD, MOVQ_MM: UD, **dict.fromkeys((VMOVDQU, EVEX_MOVDQU8, KMOVW), NM)},
        ),
        ({"cr4": OSXSAVE}, {MOVDQU: UD}),
        ({"cr4": OSFXSR}, dict.fromkeys((VMOVDQU, EVEX_MOVDQU8, KMOVW), UD)),
        ({"xcr0": 0x7}, dict.fromkeys((EVEX_MOVDQU8, KMOVW), UD)),
        ({"xcr0": 0xE3}, dict.fromkeys((VMOVDQU, EVEX_MOVDQU8, KMOVW), UD)),
    ],
)
def test_availability(registers: dict[str, object], faults: dict[str, int]) -> None:
    """SDM vol. 2, 2.4 and 2.8; vol. 3, 14.3: by CR0.EM and TS, CR4.OSFXSR and OSXSAVE, XCR0."""
    for code in (MOVDQU, MOVQ_MM, VMOVDQU, EVEX_MOVDQU8, KMOVW, ANDN):
        found = fault_of(code, vcpu(extended=known(), **registers))
        assert faults.get(code) == (found[0] if found else None), code


def test_no_vex_in_real_and_virtual_8086_mode() -> None:
    """SDM vol. 2, 2.3: #UD; in 16-bit protected mode it executes."""
    enabled = {"cr4": OSFXSR | OSXSAVE, "xcr0": 7, "extended": known()}
    for code in ("c5fe6f07", "c4e270f207"):
        assert (UD, None) == fault_of(code, real(rbx=0x100, **enabled))
        assert (UD, None) == fault_of(code, real(cr0=PE, rflags=VM | 2, **enabled))
        assert fault_of(code, flat(Mode.CODE16, rbx=0x100, **enabled)) is None
    assert fault_of("f30f6f07", real(rbx=0x100, **enabled)) is None


# --- MMX ---------------------------------------------------------------------------------


def image(top: int, status: int = 0) -> bytes:
    """FXSAVE's image in which the register that is physically n holds n in each byte."""
    data = bytearray(160)
    data[2:4] = (top << 11 | status).to_bytes(2, "little")
    for stack in range(8):
        data[32 + 16 * stack : 42 + 16 * stack] = bytes([stack + top & 7]) * 10
    return bytes(data)


def test_mmx_registers_are_physical_and_the_stack_goes_back_to_0() -> None:
    """SDM vol. 1, 9.6.2: TOP becomes 0, tags valid; a written register gets an exponent of ones."""
    state = vcpu(extended=ExtendedState(X87, x87=image(3)))
    driver = Driver()
    stored = execute("0f7f28", state, driver).vectors  # movq [rax], mm5
    loaded = execute("0f6f28", state).vectors  # movq mm5, [rax]

    assert [Effect("write", DATA, 8, 0x0505_0505_0505_0505)] == driver.trace
    assert stored is not None
    assert loaded is not None
    expected = bytearray(image(0))
    expected[4] = 0xFF
    assert expected == stored.x87
    expected[32 + 80 : 32 + 88] = Driver().memory.read(DATA, 8).to_bytes(8, "little")
    expected[32 + 88 : 32 + 90] = b"\xff\xff"
    assert expected == loaded.x87


def test_a_pending_x87_exception_comes_first() -> None:
    """SDM vol. 2, MOVQ: #MF before any access, where ES is set."""
    assert (MF, None) == fault_of("0f6f28", vcpu(extended=ExtendedState(X87, x87=image(0, 0x80))))


def test_byte_masks() -> None:
    """MASKMOVQ, MASKMOVDQU: bytes of the first register whose sign is set in the second, at DS:RDI."""
    state = vcpu(extended=known())
    state.gpr[7] = DATA
    assert state.extended is not None
    state.extended.zmm[2] = 0x80 | 0xFF << 24 | 0x90 << 32
    state.extended.x87 = image(0)
    driver = Driver()
    execute("660ff7ca", state, driver)  # maskmovdqu xmm1, xmm2
    execute("0ff7c8", state, driver)  # maskmovq mm1, mm0: no sign is set

    assert [Effect("write", DATA, 1, 2), Effect("write", DATA + 3, 2, 0x0202)] == driver.trace
