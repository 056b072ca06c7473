"""From an opcode number and its prefixes to the operands of a vector or BMI instruction.

What the manual forbids is #UD (SDM vol. 2, 2.3 and 2.7.11); instructions on registers
alone, and whatever the table does not have, are not supported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmiod.values import DS
from mmiod.x86 import addressing
from mmiod.x86.cursor import NotSupported, Undecodable, Undefined
from mmiod.x86.encoding import Encoding
from mmiod.x86.faults import UD
from mmiod.x86.mode import CODE64
from mmiod.x86.operands import GENERAL, RDI, Immediate, Memory, Operand
from mmiod.x86.table import Opcode
from mmiod.x86.vector_opcodes import FORMS, Form
from mmiod.x86.vector_operands import Lanes, Mmx, Opmask, Vector
from mmiod.x86.vex import Extension


def read_vector(encoding: Encoding, extension: Extension, number: int) -> tuple[Opcode, tuple[Operand, ...]]:
    """The instruction with this opcode number; reads ModRM and what follows.  Raises Undecodable."""
    forms = FORMS.get((extension.space, number))
    if forms is None:
        raise Undecodable(NotSupported())
    encoding.modrm = encoding.byte()
    form = _choose(forms, encoding, extension)
    if (encoding.modrm >= 0xC0) != ("Y" in form.operands):
        raise Undecodable(Undefined(UD) if "Y" in form.operands else NotSupported())
    _check(form, encoding, extension)
    length = 16 if form.scalar else extension.length
    operands = [_READERS[letter](encoding, extension, form, length) for letter in form.operands]
    if form.element and encoding.memory:
        operands.append(_lanes(form, extension, encoding.memory, length))
    return form.opcode, tuple(operands)


def _choose(forms: list[Form], encoding: Encoding, extension: Extension) -> Form:
    for form in forms:
        fits = extension.length in form.lengths or form.scalar
        if fits and form.w in (None, extension.w) and form.extension in (None, encoding.reg):
            return form
    raise Undecodable(Undefined(UD))


def _check(form: Form, encoding: Encoding, extension: Extension) -> None:
    if (
        encoding.lock
        or not extension.length
        or (extension.register and not form.vvvv)
        or extension.broadcast
        or (extension.opmask and not form.masked)
        or (extension.zeroing and (form.stores or not extension.opmask))
        or (extension.reg and "K" in form.operands)
    ):
        raise Undecodable(Undefined(UD))


def _lanes(form: Form, extension: Extension, memory: Memory, length: int) -> Lanes:
    if form.memory == "y":
        return Lanes(memory.size, 1)
    whole = form.memory[0] in "vd" or form.opcode.shape == "vector_broadcast"
    opmask = Opmask(extension.opmask) if extension.opmask else None
    return Lanes(form.element, (length if whole else memory.size) // form.element, opmask, extension.zeroing)


# --- operands --------------------------------------------------------------------------


def _wide(encoding: Encoding, extension: Extension) -> bool:
    """Whether W makes general registers 8 bytes wide."""
    return bool(extension.w) and encoding.mode is CODE64


def _memory(encoding: Encoding, extension: Extension, form: Form, length: int) -> Memory:
    size = form.memory_size(length, wide=_wide(encoding, extension))
    memory = encoding.memory = addressing.modrm_memory(encoding, size)
    if extension.space == "evex" and encoding.modrm >> 6 == 1:
        memory.displacement *= size  # disp8*N (SDM vol. 2, 2.7.5)
    return memory


def _destination(encoding: Encoding, _extension: Extension, form: Form, length: int) -> Memory:
    size = form.memory_size(length, wide=False)
    memory = encoding.memory = Memory(size, encoding.segment_or(DS), encoding.address_mask, RDI)
    return memory


def _reg(encoding: Encoding, extension: Extension) -> int:
    return encoding.reg | extension.reg


def _vvvv(encoding: Encoding, extension: Extension) -> int:
    return extension.register if encoding.mode is CODE64 else extension.register & 7


def _second(encoding: Encoding, extension: Extension, _form: Form, length: int) -> Vector:
    legacy = extension.space == "legacy"
    return Vector(_reg(encoding, extension) if legacy else _vvvv(encoding, extension), length)


def _rm(encoding: Encoding, _extension: Extension, _form: Form, length: int) -> Vector:
    return Vector(encoding.modrm & 7 | (encoding.rex & 1) << 3, length)


def _general(encoding: Encoding, extension: Extension, number: int) -> Operand:
    return GENERAL[8 if _wide(encoding, extension) else 4][number]


_READERS: Final[dict[str, Callable[[Encoding, Extension, Form, int], Operand]]] = {
    "M": _memory,
    "Y": _destination,
    "V": lambda encoding, extension, _, length: Vector(_reg(encoding, extension), length),
    "H": _second,
    "U": _rm,
    "P": lambda encoding, *_: Mmx(encoding.reg),
    "N": lambda encoding, *_: Mmx(encoding.modrm & 7),
    "K": lambda encoding, *_: Opmask(encoding.reg),
    "G": lambda encoding, extension, *_: _general(encoding, extension, _reg(encoding, extension)),
    "B": lambda encoding, extension, *_: _general(encoding, extension, _vvvv(encoding, extension)),
    "I": lambda encoding, *_: Immediate(encoding.unsigned(1)),
}
