"""Unicorn's SSE, x87, MMX and debug registers; it has no other that is asked for.

Specification: SDM vol. 1, table 10-2 (FXSAVE), 8.1.7 (tags), 9.5 (MMX and the x87 stack).
"""

from __future__ import annotations

import struct
from typing import Final

from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import Uc

from mmiod.values import ExtendedState, RegisterSet, VectorDelta
from mmiod.vmm.accelerator import Unable

_SETS: Final = RegisterSet.X87 | RegisterSet.SSE | RegisterSet.DEBUG
_HEAD: Final = struct.Struct("<HHB19xII")
"""Of FXSAVE's image: control, status and abridged tag word; MXCSR and its mask."""
_REGISTER: Final = struct.Struct("<QH6x")
"""Mantissa; exponent and sign."""
_MXCSR_MASK: Final = 0xFFFF
_EMPTY: Final = 0b11


def load(engine: Uc, sets: RegisterSet) -> ExtendedState:
    """The registers of these sets.

    Raises:
        Unable: Unicorn has no AVX.
    """
    if sets & ~_SETS:
        raise Unable(f"Unicorn has no registers {sets & ~_SETS!r}")
    state = ExtendedState(sets)
    if RegisterSet.SSE in sets:
        state.zmm[:16] = [engine.reg_read(x86.UC_X86_REG_XMM0 + number) for number in range(16)]
    if RegisterSet.X87 in sets:
        state.x87 = _x87(engine)
    if RegisterSet.DEBUG in sets:
        state.dr = [engine.reg_read(x86.UC_X86_REG_DR0 + number) for number in range(4)]
    return state


def apply(engine: Uc, delta: VectorDelta) -> None:
    """Change registers; of `zmm` there are 128 bits."""
    for number, value in (delta.xmm | delta.zmm).items():
        engine.reg_write(x86.UC_X86_REG_XMM0 + number, value & (1 << 128) - 1)
    if delta.x87:
        _set_x87(engine, delta.x87)


def _x87(engine: Uc) -> bytes:
    control, status, tags = (
        engine.reg_read(register)
        for register in (x86.UC_X86_REG_FPCW, x86.UC_X86_REG_FPSW, x86.UC_X86_REG_FPTAG)
    )
    used = sum(1 << number for number in range(8) if tags >> 2 * number & 0b11 != _EMPTY)
    head = _HEAD.pack(control, status, used, engine.reg_read(x86.UC_X86_REG_MXCSR), _MXCSR_MASK)
    return head + b"".join(_REGISTER.pack(*engine.reg_read(place)) for place in _stack(status))


def _set_x87(engine: Uc, image: bytes) -> None:
    control, status, used, *_ = _HEAD.unpack_from(image)
    tags = sum(_EMPTY << 2 * number for number in range(8) if not used >> number & 1)
    engine.reg_write(x86.UC_X86_REG_FPCW, control)
    engine.reg_write(x86.UC_X86_REG_FPSW, status)
    engine.reg_write(x86.UC_X86_REG_FPTAG, tags)
    for number, place in enumerate(_stack(status)):
        engine.reg_write(place, _REGISTER.unpack_from(image, 32 + 16 * number))


def _stack(status: int) -> list[int]:
    """The physical registers of ST0-7: the image has the stack's order, the engine its own."""
    top = status >> 11 & 7
    return [x86.UC_X86_REG_FP0 + (top + number) % 8 for number in range(8)]
