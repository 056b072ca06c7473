"""Cases computed by hand, for the forms that neither Unicorn nor our processors execute.

A row begins with the form (as iced names it) and the place in the manual that it follows.
`before` and `after` are registers by name: general ones, `zmm1`, `k2`, `rflags`, `pasid`;
what `after` does not name has to stay.  Where nothing is said general registers are 0,
vector registers all ones, and flags all set, so that what is cleared shows.
"""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from mmiod.values import ExtendedState, RegisterSet, VcpuState
from mmiod.x86 import Mode
from tests.x86.oracle import Driver, Effect, Memory
from tests.x86.states import flat, plan_of

FLAGS: Final = 0x8D7
"""CF, PF, AF, ZF, SF and OF set (bit 1 always is)."""
ONES: Final = (1 << 512) - 1
PASID: Final = 1 << 31 | 0x1234
"""IA32_PASID: valid, and the number."""


@frozen
class Row:
    """One case: all of its accesses in order, and all that is different afterwards."""

    form: str
    citation: str
    code: str
    accesses: tuple[Effect, ...]
    before: dict[str, int] = field(factory=dict)
    after: dict[str, int] = field(factory=dict)
    memory: dict[int, int] = field(factory=dict)
    """Numbers of 64 bytes, little-endian, by address."""
    mode: Mode = Mode.CODE64
    accepts: bool = True
    """Whether a queue takes the command."""


def read(address: int, size: int, value: int) -> Effect:
    """A read."""
    return Effect("read", address, size, value)


def write(address: int, size: int, value: int) -> Effect:
    """A write."""
    return Effect("write", address, size, value)


def enqueue(address: int, value: int) -> Effect:
    """A command of 64 bytes."""
    return Effect("enqueue", address, 64, value)


_LINE: Final = int.from_bytes(range(64), "little")
_COMMAND: Final = _LINE >> 32 << 32
"""Its low 32 bits are 0, as ENQCMD demands."""
_PRIVILEGED: Final = _COMMAND | 1 << 31 | 0x5678
"""With PASID and privilege of its own."""

_MOVDIRI: Final = "SDM vol. 2, MOVDIRI: DEST <- SRC; flags are not affected"
_MOVDIR64B: Final = "SDM vol. 2, MOVDIR64B: 64 bytes to ES:register, in which addresses are as wide as it is"
_ENQCMD: Final = "SDM vol. 2, ENQCMD: bits 19:0 from IA32_PASID, bits 31:20 0; ZF if refused, the others 0"
_ENQCMDS: Final = "SDM vol. 2, ENQCMDS: the command as it is; ZF if refused, the others 0"
_RAO: Final = "SDM (ISE), RAO-INT: memory <- memory op register; flags and register are not affected"
_VMOVSH: Final = "SDM vol. 2, VMOVSH: bits 511:16 of a loaded register 0; k[0] chooses, zeroing or merging"
_VMOVW: Final = "SDM vol. 2, VMOVW: bits 511:16 of a loaded register 0"

_RBX: Final = 0x1122_3344_5566_7788
_POINTERS: Final = {"rbx": 0x3_4000, "rsi": 0x3_2345}


def _rao(name: str, code: str, results: tuple[int, int]) -> list[Row]:
    """On F0F0F0F00FF00FF0h, of 4 and of 8 bytes."""
    old = 0xF0F0_F0F0_0FF0_0FF0
    start = {"rax": 0x2_0040, "rbx": _RBX}
    prefix = code[:-8]
    wide = f"{prefix}48{code[-8:]}"
    return [
        Row(
            f"{name}_M{bits}_R{bits}",
            _RAO,
            text,
            (
                read(0x2_0040, bits // 8, old & (1 << bits) - 1),
                write(0x2_0040, bits // 8, result),
            ),
            start,
            memory={0x2_0040: old},
        )
        for bits, text, result in zip((32, 64), (code, wide), results, strict=True)
    ]


ROWS: Final = (
    Row(
        "MOVDIRI_M32_R32",
        _MOVDIRI,
        "0f38f918",
        (write(0x2_0041, 4, 0x5566_7788),),
        {"rax": 0x2_0041, "rbx": _RBX},
    ),
    Row(
        "MOVDIRI_M64_R64",
        _MOVDIRI,
        "480f38f918",
        (write(0x2_0041, 8, _RBX),),
        {"rax": 0x2_0041, "rbx": _RBX},
    ),
    Row(
        "MOVDIR64B_R16_M512",
        _MOVDIR64B,
        "67660f38f81c",
        (read(0x2345, 64, _LINE), write(0x4000, 64, _LINE)),
        _POINTERS,
        memory={0x2345: _LINE},
        mode=Mode.CODE32,
    ),
    Row(
        "MOVDIR64B_R32_M512",
        _MOVDIR64B,
        "660f38f81e",
        (read(0x3_2345, 64, _LINE), write(0x3_4000, 64, _LINE)),
        _POINTERS,
        memory={0x3_2345: _LINE},
        mode=Mode.CODE32,
    ),
    Row(
        "MOVDIR64B_R64_M512",
        _MOVDIR64B,
        "660f38f81e",
        (read(0x1_0003_2345, 64, _LINE), write(0x2_0003_4000, 64, _LINE)),
        {"rbx": 0x2_0003_4000, "rsi": 0x1_0003_2345},
        memory={0x1_0003_2345: _LINE},
    ),
    Row(
        "ENQCMD_R16_M512",
        _ENQCMD,
        "67f20f38f81c",
        (read(0x2345, 64, _COMMAND), enqueue(0x4000, _COMMAND | 0x1234)),
        _POINTERS,
        {"rflags": 2},
        {0x2345: _COMMAND},
        Mode.CODE32,
    ),
    Row(
        "ENQCMD_R32_M512",
        _ENQCMD,
        "f20f38f81e",
        (read(0x3_2345, 64, _COMMAND), enqueue(0x3_4000, _COMMAND | 0x1234)),
        _POINTERS,
        {"rflags": 0x42},
        {0x3_2345: _COMMAND},
        Mode.CODE32,
        accepts=False,
    ),
    Row(
        "ENQCMD_R64_M512",
        _ENQCMD,
        "f20f38f81e",
        (read(0x3_2345, 64, _COMMAND), enqueue(0x3_4000, _COMMAND | 0x1234)),
        _POINTERS,
        {"rflags": 2},
        {0x3_2345: _COMMAND},
    ),
    Row(
        "ENQCMDS_R16_M512",
        _ENQCMDS,
        "67f30f38f81c",
        (read(0x2345, 64, _PRIVILEGED), enqueue(0x4000, _PRIVILEGED)),
        _POINTERS,
        {"rflags": 2},
        {0x2345: _PRIVILEGED},
        Mode.CODE32,
    ),
    Row(
        "ENQCMDS_R32_M512",
        _ENQCMDS,
        "f30f38f81e",
        (read(0x3_2345, 64, _PRIVILEGED), enqueue(0x3_4000, _PRIVILEGED)),
        _POINTERS,
        {"rflags": 0x42},
        {0x3_2345: _PRIVILEGED},
        Mode.CODE32,
        accepts=False,
    ),
    Row(
        "ENQCMDS_R64_M512",
        _ENQCMDS,
        "f30f38f81e",
        (read(0x3_2345, 64, _PRIVILEGED), enqueue(0x3_4000, _PRIVILEGED)),
        _POINTERS,
        {"rflags": 2},
        {0x3_2345: _PRIVILEGED},
    ),
    *_rao("AADD", "0f38fc18", (0x6556_8778, 0x0213_2434_6556_8778)),
    *_rao("AAND", "660f38fc18", (0x0560_0780, 0x1020_3040_0560_0780)),
    *_rao("AOR", "f20f38fc18", (0x5FF6_7FF8, 0xF1F2_F3F4_5FF6_7FF8)),
    *_rao("AXOR", "f30f38fc18", (0x5A96_7878, 0xE1D2_C3B4_5A96_7878)),
    Row(
        "EVEX_VMOVSH_XMM_K1Z_M16",
        _VMOVSH,
        "62f57e081008",
        (read(0x2_0041, 2, 0x3412),),
        {"rax": 0x2_0041},
        {"zmm1": 0x3412},
        {0x2_0041: 0x3412},
    ),
    Row(
        "EVEX_VMOVSH_XMM_K1Z_M16",
        f"{_VMOVSH}: zeroing, k2[0] = 0",
        "62f57e8a1008",
        (),
        {"rax": 0x2_0041, "k2": 0xFFFE},
        {"zmm1": 0},
    ),
    Row(
        "EVEX_VMOVSH_XMM_K1Z_M16",
        f"{_VMOVSH}: merging, k2[0] = 0",
        "62f57e0a1008",
        (),
        {"rax": 0x2_0041, "k2": 0xFFFE},
        {"zmm1": 0xFFFF},
    ),
    Row(
        "EVEX_VMOVSH_M16_K1_XMM",
        _VMOVSH,
        "62f57e081108",
        (write(0x2_0041, 2, 0xBEEF),),
        {"rax": 0x2_0041, "zmm1": 0xDEAD_BEEF},
    ),
    Row(
        "EVEX_VMOVSH_M16_K1_XMM",
        f"{_VMOVSH}: k2[0] = 0",
        "62f57e0a1108",
        (),
        {"rax": 0x2_0041, "zmm1": 0xDEAD_BEEF, "k2": 0xFFFE},
    ),
    Row(
        "EVEX_VMOVW_XMM_R32M16",
        _VMOVW,
        "62f57d086e08",
        (read(0x2_0041, 2, 0x3412),),
        {"rax": 0x2_0041},
        {"zmm1": 0x3412},
        {0x2_0041: 0x3412},
    ),
    Row(
        "EVEX_VMOVW_XMM_R64M16",
        _VMOVW,
        "62f5fd086e08",
        (read(0x2_0041, 2, 0x3412),),
        {"rax": 0x2_0041},
        {"zmm1": 0x3412},
        {0x2_0041: 0x3412},
    ),
    Row(
        "EVEX_VMOVW_R32M16_XMM",
        _VMOVW,
        "62f57d087e08",
        (write(0x2_0041, 2, 0xBEEF),),
        {"rax": 0x2_0041, "zmm1": 0xDEAD_BEEF},
    ),
    Row(
        "EVEX_VMOVW_R64M16_XMM",
        _VMOVW,
        "62f5fd087e08",
        (write(0x2_0041, 2, 0xBEEF),),
        {"rax": 0x2_0041, "zmm1": 0xDEAD_BEEF},
    ),
)


# --- running -----------------------------------------------------------------------------

_NAMES: Final = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
_CR4: Final = 0x4_0600  # OSXSAVE, OSXMMEXCPT, OSFXSR


def _state(row: Row) -> VcpuState:
    """The row's registers."""
    vcpu = flat(row.mode, rflags=row.before.get("rflags", FLAGS), cr4=_CR4, xcr0=0xE7)
    vcpu.gpr = [row.before.get(name, 0) for name in _NAMES]
    sets = RegisterSet.SSE | RegisterSet.AVX | RegisterSet.AVX512 | RegisterSet.PASID
    vcpu.extended = ExtendedState(
        sets,
        [row.before.get(f"zmm{number}", ONES) for number in range(32)],
        [row.before.get(f"k{number}", 0) for number in range(8)],
        pasid=row.before.get("pasid", PASID),
    )
    return vcpu


def run(row: Row) -> tuple[list[Effect], dict[str, int]]:
    """The row's accesses, and the registers that are different behind it."""
    vcpu, driver = _state(row), Driver(Memory(), accepts=row.accepts)
    for address, value in row.memory.items():
        driver.memory.write(address, 64, value)
    delta = driver.drive(plan_of(row.code, row.mode).run(vcpu))
    registers = delta.registers.items()
    changed = {_NAMES[number]: value for number, value in registers if value != vcpu.gpr[number]}
    if delta.rflags != vcpu.rflags:
        changed["rflags"] = delta.rflags
    if delta.vectors is not None:
        assert {} == delta.vectors.xmm
        changed |= {f"zmm{number}": value for number, value in delta.vectors.zmm.items()}
        changed |= {f"k{number}": value for number, value in delta.vectors.k.items()}
    assert len(row.code) // 2 == delta.rip
    return driver.trace, changed
