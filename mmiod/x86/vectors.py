"""What vector moves do, by shape (SDM vol. 2; exceptions: 2.4 and 2.8).

A shape asks for the register sets that it has to know, before it touches memory, and
only for those: a load of a whole register asks for none.  VEX and EVEX clear what they
do not write of a register, legacy SSE keeps all above bit 127.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Final

from mmiod.values import VcpuState, VectorDelta
from mmiod.x86 import faults, mmx
from mmiod.x86.availability import check_available, known
from mmiod.x86.decoder import Instruction
from mmiod.x86.execution import completed
from mmiod.x86.faults import GuestFault
from mmiod.x86.lanes import read, repeated, spread, write
from mmiod.x86.operands import Memory, mask_of, signed
from mmiod.x86.steps import Run, Step
from mmiod.x86.vector_operands import Lanes, Mmx, Opmask, Vector

Executed = Generator[Step, int, VectorDelta | None]
"""Steps, and the registers that changed."""


def _shape(execute: Callable[..., Executed]) -> Callable[..., Run]:
    """Makes a shape of a function of the vCPU and the operands."""

    def shape(i: Instruction, vcpu: VcpuState, *operands: object) -> Run:
        check_available(i, vcpu)
        vectors = yield from execute(i, vcpu, *operands)
        delta = completed(i, vcpu, {})
        delta.vectors = vectors
        return delta

    return shape


def _written(i: Instruction, register: Vector, value: int) -> VectorDelta:
    if "sse" in i.opcode.attributes:
        return VectorDelta(xmm={register.number: value})
    return VectorDelta(zmm={register.number: value})


# --- loads -------------------------------------------------------------------------------


def _identity(value: int, _memory: Memory, _lanes: Lanes) -> int:
    return value


def _extend(extension: Callable[[int, int], int], value: int, memory: Memory, lanes: Lanes) -> int:
    """Each element of memory made as wide as a lane."""
    size, width, result = memory.size // lanes.count, lanes.element, 0
    for n in range(lanes.count):
        narrow = value >> 8 * size * n & mask_of(size)
        result |= (extension(narrow, size) & mask_of(width)) << 8 * width * n
    return result


def _broadcast(value: int, memory: Memory, lanes: Lanes) -> int:
    return repeated(value, memory.size, lanes.element * lanes.count)


def _duplicate(odd: int, value: int, _memory: Memory, lanes: Lanes) -> int:
    """The even elements in the odd ones' place too, or the other way round."""
    size = lanes.element
    kept = value & repeated(mask_of(size), 2 * size, size * lanes.count) << 8 * size * odd
    return kept | (kept >> 8 * size if odd else kept << 8 * size)


def _load(
    convert: Callable[[int, Memory, Lanes], int],
    i: Instruction,
    vcpu: VcpuState,
    register: Vector,
    memory: Memory,
    lanes: Lanes,
) -> Executed:
    """Lanes from memory, by way of `convert`; those that are masked out stay or become 0."""
    old = None if lanes.opmask is None or lanes.zeroing else register
    vectors = known(vcpu, lanes.opmask, old)
    active = lanes.active(vectors)
    value = convert((yield from _fetched(i, vcpu, memory, lanes, active)), memory, lanes)
    moved = spread(active, lanes.element)
    kept = vectors.zmm[register.number] & spread(lanes.all & ~active, lanes.element) if old else 0
    return _written(i, register, value & moved | kept)


def _fetched(
    i: Instruction, vcpu: VcpuState, memory: Memory, lanes: Lanes, active: int
) -> Generator[Step, int, int]:
    """What active lanes take from memory; whole operands where the mask does not count."""
    if "whole" in i.opcode.attributes:
        element, needed = memory.size, 1
    elif i.opcode.shape == "vector_broadcast":
        element, needed = lanes.element, _folded(active, memory.size // lanes.element)
    else:
        element, needed = memory.size // lanes.count, active
    return (yield from read(i, vcpu, memory, element, needed))


def _folded(active: int, count: int) -> int:
    """The elements of a broadcast of `count` that active lanes take."""
    needed = 0
    while active:
        needed |= active & (1 << count) - 1
        active >>= count
    return needed


def _load_half(
    high: int, i: Instruction, vcpu: VcpuState, register: Vector, second: Vector, memory: Memory, lanes: Lanes
) -> Executed:
    """One half from memory, the other from the second operand."""
    other = known(vcpu, second).zmm[second.number] & mask_of(8) << 64 * (1 - high)
    value = yield from read(i, vcpu, memory, lanes.element, lanes.all)
    return _written(i, register, value << 64 * high | other)


def _signs(value: int, lanes: Lanes) -> int:
    """A bit for each lane whose highest bit is set."""
    width = 8 * lanes.element
    return sum((value >> width * (n + 1) - 1 & 1) << n for n in range(lanes.count))


def _load_signed(
    i: Instruction, vcpu: VcpuState, register: Vector, mask: Vector, memory: Memory, lanes: Lanes
) -> Executed:
    """VMASKMOV: lanes whose sign in `mask` is set, zeros elsewhere."""
    active = _signs(mask.read(known(vcpu, mask)), lanes)
    value = yield from read(i, vcpu, memory, lanes.element, active)
    return _written(i, register, value)


def _load_opmask(i: Instruction, vcpu: VcpuState, opmask: Opmask, memory: Memory) -> Executed:
    value = yield from read(i, vcpu, memory, memory.size, 1)
    return VectorDelta(k={opmask.number: value})


# --- stores ------------------------------------------------------------------------------


def _store(
    skip: int, i: Instruction, vcpu: VcpuState, memory: Memory, register: Vector, lanes: Lanes
) -> Executed:
    """Lanes to memory, from byte `skip` of the register."""
    vectors = known(vcpu, register, lanes.opmask)
    value = register.read(vectors) >> 8 * skip
    yield from write(i, vcpu, memory, lanes.element, lanes.active(vectors), value)
    return None


def _store_signed(
    i: Instruction, vcpu: VcpuState, memory: Memory, mask: Vector, register: Vector, lanes: Lanes
) -> Executed:
    """VMASKMOV: lanes whose sign in `mask` is set."""
    vectors = known(vcpu, mask, register)
    active = _signs(mask.read(vectors), lanes)
    yield from write(i, vcpu, memory, lanes.element, active, register.read(vectors))
    return None


def _store_opmask(i: Instruction, vcpu: VcpuState, memory: Memory, opmask: Opmask) -> Executed:
    value = opmask.read(known(vcpu, opmask))
    yield from write(i, vcpu, memory, memory.size, 1, value)
    return None


def _store_bytes(
    i: Instruction, vcpu: VcpuState, memory: Memory, register: Vector | Mmx, mask: Vector | Mmx, lanes: Lanes
) -> Executed:
    """MASKMOVQ, MASKMOVDQU: bytes whose sign in `mask` is set."""
    if isinstance(register, Mmx):
        assert isinstance(mask, Mmx)
        image = _image(vcpu, register)
        data, signs = mmx.read(image, register.number), mmx.read(image, mask.number)
        changed = VectorDelta(x87=mmx.touched(image, {}))
    else:
        assert isinstance(mask, Vector)
        vectors = known(vcpu, register, mask)
        data, signs, changed = register.read(vectors), mask.read(vectors), None
    yield from write(i, vcpu, memory, 1, _signs(signs, lanes), data)
    return changed


# --- MMX ---------------------------------------------------------------------------------


def _image(vcpu: VcpuState, register: Mmx) -> bytes:
    image = known(vcpu, register).x87
    if mmx.pending(image):
        raise GuestFault(faults.MF)
    return image


def _load_mmx(i: Instruction, vcpu: VcpuState, register: Mmx, memory: Memory) -> Executed:
    image = _image(vcpu, register)
    value = yield from read(i, vcpu, memory, memory.size, 1)
    return VectorDelta(x87=mmx.touched(image, {register.number: value}))


def _store_mmx(i: Instruction, vcpu: VcpuState, memory: Memory, register: Mmx) -> Executed:
    image = _image(vcpu, register)
    value = mmx.read(image, register.number)
    yield from write(i, vcpu, memory, memory.size, 1, value)
    return VectorDelta(x87=mmx.touched(image, {}))


_CONVERSIONS: Final[dict[str, Callable[[int, Memory, Lanes], int]]] = {
    "load": _identity,
    "load_even": partial(_duplicate, 0),
    "load_odd": partial(_duplicate, 1),
    "broadcast": _broadcast,
    "extend": partial(_extend, lambda value, _: value),
    "extend_signed": partial(_extend, signed),
}
_EXECUTED: Final[dict[str, Callable[..., Executed]]] = {
    **{name: partial(_load, convert) for name, convert in _CONVERSIONS.items()},
    "load_low": partial(_load_half, 0),
    "load_high": partial(_load_half, 1),
    "load_signed": _load_signed,
    "load_k": _load_opmask,
    "load_mm": _load_mmx,
    "store": partial(_store, 0),
    "store_high": partial(_store, 8),
    "store_signed": _store_signed,
    "store_k": _store_opmask,
    "store_mm": _store_mmx,
    "store_bytes": _store_bytes,
}
SHAPES: Final = {f"vector_{name}": _shape(execute) for name, execute in _EXECUTED.items()}
"""By the opcode table's third column."""
