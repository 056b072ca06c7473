"""Instructions on a device that KVM's own emulator does not know: mmiod executes them.

KVM says so with the bytes that it fetched, always 15: what follows the instruction is in
them too.  `RECORDED` are those bytes as a real run gave them.  Where there is KVM, guests
execute the instructions and KVM has to give the same bytes; everywhere the exits are
replayed, through the same loop of the hypervisor.
"""

from __future__ import annotations

import struct
from fcntl import ioctl
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from attrs import define, field, frozen

from mmiod.machine.machine import Machine
from mmiod.vmm.accelerator import MAX_CODE, Accelerator
from mmiod.vmm.vcpu import Stuck, Vcpu
from tests.functional.guests import DEVICE, PATTERN, RAM, Ended, execute
from tests.functional.replayed import XCR0, Replayed, flat

if TYPE_CHECKING:
    from mmiod.vmm.kvm import KvmCpu

RESULT: Final = 0x800
"""Where instructions that store do so in the device."""
CRC32C: Final = 0x82F6_3B78
_RAX, _RCX = 0, 1


@frozen
class Case:
    """`text` leaves `expected` in `where`: "device" (at `RESULT`), "ecx" or an XMM register.

    At its first exit registers are RDI and RSI as the guest began, and what `registers` says.
    """

    text: str
    where: str
    expected: bytes
    registers: dict[int, int] = field(factory=dict)
    rflags: int = 2


def _word(at: int, size: int = 4) -> int:
    return int.from_bytes(PATTERN[at : at + size], "little")


def _extended(data: bytes, size: int, *, signed: bool = False) -> bytes:
    """Each byte as a lane of `size` bytes."""
    lanes = (int.from_bytes([byte], "little", signed=signed) for byte in data)
    return b"".join(lane.to_bytes(size, "little", signed=signed) for lane in lanes)


def _crc32c(crc: int, data: bytes) -> int:
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (CRC32C if crc & 1 else 0)
    return crc


CASES: Final = {
    "vmovdqu ymm": Case("vmovdqu ymm1, [rdi + 3]; vmovdqu [rdi + 0x800], ymm1", "device", PATTERN[3:35]),
    "vmovdqu64 zmm": Case(
        "vmovdqu64 zmm17, [rdi + 64]; vmovdqu64 [rdi + 0x800], zmm17", "device", PATTERN[64:128]
    ),
    "vmovdqu32 zmm{k}{z}": Case(
        "kmovw k1, [rdi + 2]; vmovdqu32 zmm18{k1}{z}, [rdi]; vmovdqu32 [rdi + 0x800], zmm18",
        "device",
        b"".join(
            PATTERN[4 * lane : 4 * lane + 4] if _word(2, 2) >> lane & 1 else bytes(4) for lane in range(16)
        ),
    ),
    "vpbroadcastd": Case(
        "vpbroadcastd ymm5, [rdi + 4]; vmovups [rdi + 0x800], ymm5", "device", 8 * PATTERN[4:8]
    ),
    "pmovzxbd": Case("pmovzxbd xmm2, [rdi + 4]", "xmm2", _extended(PATTERN[4:8], 4)),
    "pmovsxbw": Case("pmovsxbw xmm2, [rdi + 4]", "xmm2", _extended(PATTERN[4:12], 2, signed=True)),
    "movd": Case("movd xmm3, [rdi + 1]", "xmm3", PATTERN[1:5] + bytes(12)),
    "movq": Case("movq xmm3, [rdi + 1]", "xmm3", PATTERN[1:9] + bytes(8)),
    "movss": Case("movss xmm3, [rdi + 2]", "xmm3", PATTERN[2:6] + bytes(12)),
    "movhps": Case("movhps xmm3, [rdi]", "xmm3", bytes(8) + PATTERN[:8]),
    "lddqu": Case("lddqu xmm3, [rdi + 9]", "xmm3", PATTERN[9:25]),
    "movntdqa": Case("movntdqa xmm3, [rdi + 16]", "xmm3", PATTERN[16:32]),
    "movdir64b": Case(
        "lea rax, [rdi + 0x800]; movdir64b rax, [rdi + 5]",
        "device",
        PATTERN[5:69],
        {_RAX: DEVICE + RESULT},
    ),
    "movdiri": Case(
        "mov eax, 0x12345678; movdiri [rdi + 0x800], eax",
        "device",
        bytes.fromhex("78563412"),
        {_RAX: 0x12345678},
    ),
    "popcnt": Case("popcnt ecx, [rdi + 8]", "ecx", _word(8).bit_count().to_bytes(4, "little")),
    "crc32": Case(
        "mov ecx, -1; crc32 ecx, dword ptr [rdi]",
        "ecx",
        _crc32c(0xFFFF_FFFF, PATTERN[:4]).to_bytes(4, "little"),
        {_RCX: 0xFFFF_FFFF},
    ),
    "adcx": Case(
        "mov ecx, 5; stc; adcx ecx, [rdi]", "ecx", (_word(0) + 6).to_bytes(4, "little"), {_RCX: 5}, 0x3
    ),
    "andn": Case(
        "mov ecx, 0xff00ff; andn ecx, ecx, [rdi + 4]",
        "ecx",
        (_word(4) & 0xFF00FF00).to_bytes(4, "little"),
        {_RCX: 0xFF00FF},
    ),
    "bextr": Case(
        "mov ecx, 0x804; bextr ecx, [rdi + 4], ecx",
        "ecx",
        (_word(4) >> 4 & 0xFF).to_bytes(4, "little"),
        {_RCX: 0x804},
    ),
}


RECORDED: Final[dict[str, tuple[str, ...]]] = {
    "vmovdqu ymm": ("c5fe6f4f03c5fe7f8f000800009090", "c5fe7f8f0008000090909090909090"),
    "vmovdqu64 zmm": ("62e1fe486f4f0162e1fe487f4f2090", "62e1fe487f4f209090909090909090"),
    "vmovdqu32 zmm{k}{z}": (
        "c5f8904f0262e17ec96f1762e17e48",
        "62e17ec96f1762e17e487f57209090",
        "62e17e487f57209090909090909090",
    ),
    "vpbroadcastd": ("c4e27d586f04c5fc11af0008000090", "c5fc11af0008000090909090909090"),
    "pmovzxbd": ("660f38315704f30f7f142500600000",),
    "pmovsxbw": ("660f38205704f30f7f142500600000",),
    "movd": ("660f6e5f01f30f7f1c250060000090",),
    "movq": ("f30f7e5f01f30f7f1c250060000090",),
    "movss": ("f30f105f02f30f7f1c250060000090",),
    "movhps": ("0f161ff30f7f1c2500600000909090",),
    "lddqu": ("f20ff05f09f30f7f1c250060000090",),
    "movntdqa": ("660f382a5f10f30f7f1c2500600000",),
    "movdir64b": ("660f38f84705909090909090909090",),
    "movdiri": ("0f38f9870008000090909090909090",),
    "popcnt": ("f30fb84f08890c2500600000909090",),
    "crc32": ("f20f38f10f890c2500600000909090",),
    "adcx": ("660f38f60f890c2500600000909090",),
    "andn": ("c4e270f24f04890c25006000009090",),
    "bextr": ("c4e270f74f04890c25006000009090",),
}
"""What KVM reported, in order."""


def told(case: Case) -> str:
    """The guest's text; a result in a register goes to RAM by an instruction that KVM knows."""
    moves = {"device": "", "ecx": f"mov [{RAM:#x}], ecx"}
    move = moves.get(case.where, f"movdqu [{RAM:#x}], {case.where}")
    return f"{case.text}; {move}; .fill {MAX_CODE}, 1, 0x90"


class Refused(Exception):
    """The guest's processor raises #UD, where the guest has no handler: a triple fault."""


@define
class Failures:
    """The instruction bytes of each emulation failure."""

    codes: list[str] = field(factory=list)

    def build(self, vcpu: Vcpu) -> KvmCpu:
        """A vCPU on KVM whose guest may use all vector registers."""
        from mmiod.vmm import kvm_abi as abi  # noqa: PLC0415 - fcntl is everywhere, /dev/kvm is not
        from mmiod.vmm.kvm import Kvm, KvmCpu  # noqa: PLC0415

        failures = self

        class Recording(KvmCpu):
            def code(self) -> bytes:
                failures.codes.append(super().code().hex())
                return super().code()

            def reset(self) -> None:
                raise Refused

        cpu = Recording(Kvm.open(vectors=True), vcpu.memory, vcpu.perform)
        xcrs = abi.XCR.pack(1, 0, 0, 0, XCR0)
        ioctl(cpu.registers.descriptor, abi.KVM_SET_XCRS, xcrs.ljust(abi.XCRS_SIZE, b"\0"))
        return cpu


AVX512 = pytest.mark.skipif(
    "avx512bw" not in Path("/proc/cpuinfo").read_text(), reason="this processor has no AVX-512"
)


@AVX512
@pytest.mark.needs("kvm", "gcc")
@pytest.mark.parametrize("name", CASES)
async def test_guest_on_kvm_goes_on_with_the_right_value(tmp_path: Path, name: str) -> None:
    """KVM reports each instruction, mmiod completes it, the guest moves the result and powers off."""
    case, failures = CASES[name], Failures()
    try:
        ended = await execute(tmp_path, told(case), failures.build)
    except* Refused:
        assert not failures.codes
        pytest.skip(f"this machine's processor has no {name}")
    size = len(case.expected)
    found = ended.device[RESULT : RESULT + size] if case.where == "device" else ended.ram(size)
    assert case.expected == found
    assert PATTERN == ended.device[:256]
    assert RECORDED[name] == tuple(failures.codes)


# --- where KVM is not -------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
async def test_recorded_exits_are_completed_alike(tmp_path: Path, name: str) -> None:
    """Without KVM: the same bytes give the same result, and a length that leaves what follows."""
    case, codes = CASES[name], [bytes.fromhex(code) for code in RECORDED[name]]

    def build(vcpu: Vcpu) -> Accelerator:
        return Replayed(vcpu, list(codes), flat(case.rflags, case.registers))

    ended = await execute(tmp_path, None, build)
    cpu = ended.cpu
    assert isinstance(cpu, Replayed)
    assert case.expected == _result(case, ended, cpu)
    assert len(codes) == len(cpu.lengths)
    for code, length, following in zip(codes, cpu.lengths, [*codes[1:], None], strict=True):
        rest = code[length:]
        assert rest.startswith(_MOVES) if following is None else following.startswith(rest)


_MOVES: Final = tuple(bytes.fromhex(code) for code in ("f30f7f", "890c25", "90"))
"""How what follows the instructions of a case begins."""


def _result(case: Case, ended: Ended, cpu: Replayed) -> bytes:
    size = len(case.expected)
    if case.where == "device":
        return ended.device[RESULT : RESULT + size]
    if case.where == "ecx":
        return cpu.now.gpr[_RCX].to_bytes(8, "little")[:size]
    return cpu.known.zmm[int(case.where.removeprefix("xmm"))].to_bytes(64, "little")[:size]


# --- effects before the failure -----------------------------------------------------------------


@AVX512
@pytest.mark.needs("kvm", "gcc")
async def test_instruction_for_which_kvm_has_read_the_device_is_not_executed_again(tmp_path: Path) -> None:
    """CMPXCHG16B on a register that counts its reads: KVM reads it, then gives up; it counts one read."""
    machines = list[Machine]()

    def build(vcpu: Vcpu) -> Accelerator:
        return Failures().build(vcpu)

    with pytest.RaisesGroup(pytest.RaisesExc(Stuck, match="KVM read a device for .* 48 0f c7 4e 10 ")):
        await execute(tmp_path, "lock cmpxchg16b [rsi + 0x10]", build, machines.append)
    (machine,) = machines
    assert 1 == machine.hosts["testdev"].device.values["count"]


FAULTING: Final = """
    lea rax, [rip + 3f]
    mov [0x5000 + {vector} * 16], ax; mov word ptr [0x5000 + {vector} * 16 + 2], 8
    mov word ptr [0x5000 + {vector} * 16 + 4], 0x8e00; shr rax, 16; mov [0x5000 + {vector} * 16 + 6], ax
    lidt [rip + 4f]; mov r8, 0x100000010
2:  {instruction}
    jmp 5f
3:  pop rax; mov [{ram}], rax; pop rax; lea rcx, [rip + 2b]; sub rax, rcx; mov [{ram} + 8], rax
    mov rax, cr2; mov [{ram} + 16], rax; jmp 5f
4:  .word 0x1ff; .quad 0x5000
5:
"""
"""Gate `vector` leads to code that keeps the error code, where RIP was (from 2: on), and CR2."""


@AVX512
@pytest.mark.needs("kvm", "gcc")
@pytest.mark.parametrize(
    ("instruction", "vector", "expected"),
    [
        ("vmovdqa ymm1, [rdi + 1]", 13, (0, 0, 0)),
        ("pmovzxbd xmm1, [r8]", 14, (0, 0, 0x1_0000_0010)),
        ("movdiri [r8], ecx", 14, (2, 0, 0x1_0000_0010)),
    ],
)
async def test_fault_of_such_an_instruction_reaches_the_guests_handler(
    tmp_path: Path, instruction: str, vector: int, expected: tuple[int, int, int]
) -> None:
    """What the processor would raise: #GP where an operand is not aligned, #PF where there is no page."""
    text = FAULTING.format(instruction=instruction, vector=vector, ram=f"{RAM:#x}")
    ended = await execute(tmp_path, text, Failures().build)
    assert expected == struct.unpack("<3Q", ended.ram(24))
