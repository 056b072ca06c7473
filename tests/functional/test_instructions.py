"""64-bit code end to end: a guest's instructions on a device do what they do on RAM.

Each program runs twice on Unicorn: on RAM, where Unicorn executes it, and on the test
device's RAM, where each access is a raw exit and mmiod executes the instruction.  Memory,
registers and flags must be the same at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from mmiod.values import RegisterSet
from mmiod.vmm.accelerator import Accelerator
from mmiod.vmm.vcpu import Vcpu
from tests.functional.guests import DEVICE, PATTERN, RAM, Ended, execute

pytestmark = pytest.mark.needs("unicorn", "gcc")

IN_RAM: Final = 0x20000
LENGTH: Final = 0x1000

# Unicorn's LOCK NEG gives flags of the operand, not of the result, so these are not looked at.
# FLAGS mixes the status flags into r15; LOGIC leaves out AF, CARRY all but CF, which alone are defined.
PROGRAM: Final = """
.macro MIX mask
    pushfq; pop r14; and r14d, \\mask; rol r15, 7; xor r15, r14
.endm
.macro FLAGS
    MIX 0x8d5
.endm
.macro LOGIC
    MIX 0x8c5
.endm
.macro CARRY
    MIX 1
.endm
    mov edi, {base}; mov esi, {other}; mov rsp, 0x7000
    xor ecx, ecx; mov eax, 0x81
1:  mov [rdi + rcx], al; mov [rsi + rcx], al; add al, 7; inc cl; jnz 1b
    xor r15d, r15d
    mov rax, 0x123456789abcdef0; mov rbx, 0xfedcba9876543210; mov ecx, 5; mov edx, 0x1234
    mov r8, -2; mov r9d, 0x80000001; cld
{text}
    mov [{ram}], rax; mov [{ram} + 8], rdx
"""
OTHER: Final = 0x30000

FAMILIES: Final = {
    "loads and stores": """
        mov al, [rdi]; mov ah, [rdi + 1]; mov r8w, [rdi + 2]; mov r9d, [rdi + 4]; mov r10, [rdi + 8]
        mov [rdi + 0x100], al; mov [rdi + 0x101], ah; mov [rdi + 0x102], r8w
        mov [rdi + 0x104], r9d; mov [rdi + 0x108], r10; mov byte ptr [rdi + 0x110], 0x5a
        mov word ptr [rdi + 0x112], 0x5a5a; mov dword ptr [rdi + 0x114], -2; mov qword ptr [rdi + 0x118], -3
        movzx r11d, byte ptr [rdi + 3]; movzx r12, word ptr [rdi + 3]; movsx r13w, byte ptr [rdi]
        movsx rax, word ptr [rdi + 6]; movsxd rbx, dword ptr [rdi + 9]; movnti [rdi + 0x120], rbx
        mov edx, [rdi + rcx * 8 - 3]; addr32 mov dx, [edi + ecx * 2]
        movabs al, [{base} + 0x11]; movabs [{base} + 0x130], rax
        mov r9, rbx; mov ebx, edi; mov al, 0x22; xlatb; mov rbx, r9
        mov dx, ds; mov [rdi + 0x140], ds; mov ax, 16; mov [rdi + 0x150], ax; mov es, [rdi + 0x150]
    """,
    "conditions": """
        cmp byte ptr [rdi], 0x81; sete [rdi + 0x100]; setne [rdi + 0x101]; FLAGS
        cmovne r10, [rdi + 8]; cmove r11, [rdi + 8]; cmovb r12d, [rdi + 4]; cmovae r13w, [rdi + 4]
        test dword ptr [rdi], 0x80; sets [rdi + 0x102]; setp [rdi + 0x103]; LOGIC
        test [rdi + 8], rbx; setnle [rdi + 0x104]; LOGIC
    """,
    "arithmetic": """
        add eax, [rdi]; FLAGS; adc [rdi + 8], rbx; FLAGS; sbb byte ptr [rdi + 1], cl; FLAGS
        sub qword ptr [rdi + 16], -0x80; FLAGS; and word ptr [rdi + 2], 0x5555; LOGIC
        or [rdi + 24], r8; LOGIC; xor r9d, [rdi + 5]; LOGIC
        cmp rax, [rdi + 7]; FLAGS; inc dword ptr [rdi + 32]; FLAGS
        dec byte ptr [rdi + 36]; FLAGS; neg qword ptr [rdi + 40]; FLAGS; not word ptr [rdi + 48]; FLAGS
        lock add [rdi + 56], ecx; FLAGS; lock sub byte ptr [rdi + 60], 1; FLAGS; lock not qword ptr [rdi + 64]
        lock neg dword ptr [rdi + 72]; lock xor [rdi + 76], r9w; LOGIC
    """,
    "multiplication and division": """
        imul r10d, [rdi]; CARRY; imul r11, [rdi + 8], -77; CARRY; imul r12w, [rdi + 2], 300; CARRY
        mov eax, 0x1234567; mul dword ptr [rdi + 4]; mov r13, rdx; CARRY
        mov rax, r8; imul qword ptr [rdi + 16]; xor rbx, rdx; CARRY
        xor edx, edx; mov eax, 0x7654321; div word ptr [rdi + 6]; mov rbp, rdx
        xor edx, edx; mov rax, -1; shr rax, 9; div qword ptr [rdi + 24]
        mov rcx, rax; mov ax, 0x123; idiv byte ptr [rdi + 0x19]
    """,
    "exchanges": """
        xchg [rdi], al; xchg [rdi + 8], rbx; xadd [rdi + 16], r8d; FLAGS; lock xadd [rdi + 24], r9; FLAGS
        mov eax, [rdi + 32]; lock cmpxchg [rdi + 32], ecx; FLAGS; lock cmpxchg [rdi + 36], rcx; FLAGS
        mov rax, [rdi + 48]; mov rdx, [rdi + 56]; lock cmpxchg16b [rdi + 48]; MIX 0x40
        cmpxchg16b [rdi + 64]; MIX 0x40; mov eax, [rdi + 80]; mov edx, [rdi + 84]
        cmpxchg8b [rdi + 80]; MIX 0x40; lock cmpxchg8b [rdi + 88]; MIX 0x40
    """,
    "bits and shifts": """
        bt dword ptr [rdi], 7; CARRY; bts qword ptr [rdi + 8], 63; CARRY; btr word ptr [rdi + 2], 15; CARRY
        lock btc dword ptr [rdi + 4], 3; CARRY; mov r10d, 1000; bts [rdi], r10; CARRY; mov r11, -9
        btr [rdi + 0x80], r11; CARRY; bsf r12, [rdi + 24]; MIX 0x40; bsr r13d, [rdi + 28]; MIX 0x40
        shl byte ptr [rdi + 40], 1; LOGIC; sar dword ptr [rdi + 44], 3; MIX 0xc5; shr qword ptr [rdi + 48], cl
        MIX 0xc5; rol word ptr [rdi + 56], cl; CARRY; ror byte ptr [rdi + 58], 1; MIX 0x801
        rcl dword ptr [rdi + 60], 1; MIX 0x801; rcr qword ptr [rdi + 64], cl; CARRY
        shld [rdi + 72], ebx, 5; MIX 0xc5; shrd [rdi + 80], rbx, cl; MIX 0xc5
    """,
    "stack and control": """
        push qword ptr [rdi]; pop qword ptr [rdi + 0x100]; push word ptr [rdi + 8]; pop word ptr [rdi + 0x108]
        lea r10, [rdi + 0x400]; xchg rsp, r10; push rbx; push 0x12; pushfq; pop r11; pop r12
        pop qword ptr [rsp]; call 3f; xchg rsp, r10
        lea rax, [rip + 4f]; mov [rdi + 0x200], rax; call qword ptr [rdi + 0x200]
        lea rax, [rip + 5f]; mov [rdi + 0x208], rax; jmp qword ptr [rdi + 0x208]; hlt
    3:  add rbx, 3; ret 8
    4:  add rbx, 4; ret
    5:  xchg rsp, r10; sub rsp, 32; mov rbp, 0x77; enter 16, 0; mov [rbp - 8], rbx; leave; add rsp, 32
        xchg rsp, r10; sub r10, rdi
    """,
    "strings": """
        movsb; movsw; movsd; movsq; mov cl, 40; rep movsb; add rdi, 3; mov cl, 9; rep movsd; std
        mov cl, 7; rep movsw; cld; xchg rsi, rdi; movsq; mov cl, 5; rep movsq; lodsb; lodsq; mov r10, rax
        xchg rsi, rdi; mov eax, 0x11223344; stosb; stosd; mov cl, 30; rep stosw
        mov edi, {base} + 16; mov al, 0x30; mov cl, 255; repne scasb; FLAGS; mov r11, rcx
        mov edi, {base}; mov esi, {other}; mov byte ptr [rsi + 77], 0; mov ecx, 200; repe cmpsb; FLAGS
        mov r12, rcx; mov eax, 0x81; mov cl, 3; repe scasq; FLAGS; cmpsq; FLAGS
        mov edi, {base} + 0x300; lea rsi, [rdi - 0x200]; mov ecx, 64; rep movsb
        add rdi, 64; lea rsi, [rdi - 1]; mov ecx, 16; rep movsb
    """,
    "vectors": """
        movups xmm0, [rdi + 1]; movdqu xmm1, [rdi + 3]; movaps xmm2, [rdi + 16]; movdqa xmm3, [rdi + 32]
        movd xmm4, [rdi + 5]; movq xmm5, [rdi + 6]; movss xmm6, [rdi + 7]; movsd xmm7, [rdi + 8]
        movlps xmm8, [rdi]; movhps xmm8, [rdi + 40]; movlpd xmm9, [rdi + 8]; movhpd xmm9, [rdi + 48]
        movddup xmm10, [rdi + 9]; movsldup xmm11, [rdi + 64]; movshdup xmm12, [rdi + 80]
        lddqu xmm13, [rdi + 5]; movups [rdi + 0x101], xmm1; movaps [rdi + 0x120], xmm2
        movd [rdi + 0x130], xmm5
        movq [rdi + 0x138], xmm7; movss [rdi + 0x140], xmm0; movsd [rdi + 0x148], xmm1
        movlps [rdi + 0x150], xmm2; movhps [rdi + 0x158], xmm3; movntps [rdi + 0x160], xmm9
        movntdq [rdi + 0x170], xmm8; movq mm1, [rdi + 2]; movd mm2, [rdi + 3]; movq [rdi + 0x180], mm1
        movntq [rdi + 0x188], mm2; movd [rdi + 0x190], mm1; movq2dq xmm14, mm2; emms
    """,
}


def unicorn(vcpu: Vcpu) -> Accelerator:
    """The accelerator."""
    from mmiod.vmm.unicorn import UnicornCpu  # noqa: PLC0415 - the mark `needs` comes first

    return UnicornCpu(vcpu.memory, vcpu.perform)


async def run(directory: Path, name: str, base: int) -> Ended:
    """One program on memory from `base` on."""
    places = {"base": f"{base:#x}", "other": f"{OTHER:#x}", "ram": f"{RAM:#x}"}
    text = PROGRAM.format(text=FAMILIES[name].format(**places), **places)
    return await execute(directory, text, unicorn)


def registers(ended: Ended, base: int) -> list[int]:
    """At the end, RAX and RDX before the machine was switched off; addresses from `base` on."""
    gpr = list(ended.cpu.state().gpr)
    gpr[0], gpr[2] = (int.from_bytes(ended.memory.read(RAM + at, 8), "little") for at in (0, 8))
    return [value - base if base <= value < base + LENGTH else value for value in gpr]


@pytest.mark.parametrize("name", FAMILIES)
async def test_instructions_on_a_device_do_what_they_do_on_ram(tmp_path: Path, name: str) -> None:
    """Unicorn's own execution is the oracle: memory, general and vector registers, flags."""
    on_ram = await run(tmp_path, name, IN_RAM)
    on_device = await run(tmp_path, name, DEVICE)

    assert on_ram.memory.read(IN_RAM, LENGTH) == on_device.device[:LENGTH]
    assert on_ram.memory.read(OTHER, LENGTH) == on_device.memory.read(OTHER, LENGTH)
    assert registers(on_ram, IN_RAM) == registers(on_device, DEVICE)
    assert on_ram.cpu.vectors(RegisterSet.SSE) == on_device.cpu.vectors(RegisterSet.SSE)
    assert on_device.raw_exits - on_ram.raw_exits > len(PATTERN) + 6
