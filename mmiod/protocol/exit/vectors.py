"""Vector registers as bytes: bodies of the supplements REGISTERS and VECTOR.

A set travels to the daemon as XSAVE's components have it, one behind the other, so that
a hypervisor copies them; what an instruction changed comes back register by register.

Specification: docs/protocol.md, "Supplements".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mmiod.protocol.exit.codec import check, structure
from mmiod.protocol.exit.table import NUMBERS
from mmiod.values import ExtendedState, RegisterSet, VectorDelta

HEAD: Final = 8
"""Bytes of a supplement's head, which its length counts."""
FX: Final = 160
"""Bytes of FXSAVE's image up to the end of ST7."""

_REGISTERS: Final = structure("supplement_registers")
_VECTOR: Final = structure("supplement_vector")
_SIZES: Final = {
    RegisterSet.X87: FX,
    RegisterSet.SSE: 16 * 16,
    RegisterSet.AVX: 16 * 16,
    RegisterSet.AVX512: 8 * 8 + 16 * 32 + 16 * 64,
    RegisterSet.PASID: 8,
    RegisterSet.DEBUG: 4 * 8,
}
_ALL_SETS: Final = sum(_SIZES)
_FILES: Final = NUMBERS["register_file"]
_XMM, _ZMM, _K, _FX = (_FILES[name] for name in ("XMM", "ZMM", "K", "FX"))
_SHAPES: Final = {_XMM: (32, 16), _ZMM: (32, 64), _K: (8, 8), _FX: (1, FX)}
"""How many registers a file has, and the bytes of each."""


def _check_length(holds: bool, body: bytes, reason: str) -> None:
    check(holds, "supplement.length", len(body) + HEAD, reason)


# --- what the hypervisor supplies ------------------------------------------------------


def pack_state(vectors: ExtendedState) -> bytes:
    """The body of a REGISTERS supplement."""
    return _REGISTERS.pack(vectors.sets) + b"".join(_components(vectors))


def _components(vectors: ExtendedState) -> Iterator[bytes]:
    low, high = vectors.zmm[:16], vectors.zmm[16:]
    if RegisterSet.X87 in vectors.sets:
        yield vectors.x87
    if RegisterSet.SSE in vectors.sets:
        yield _join(low, 0, 16)
    if RegisterSet.AVX in vectors.sets:
        yield _join(low, 16, 16)
    if RegisterSet.AVX512 in vectors.sets:
        yield _join(vectors.k, 0, 8) + _join(low, 32, 32) + _join(high, 0, 64)
    if RegisterSet.PASID in vectors.sets:
        yield vectors.pasid.to_bytes(8, "little")
    if RegisterSet.DEBUG in vectors.sets:
        yield _join(vectors.dr, 0, 8)


def _join(values: list[int], skip: int, size: int) -> bytes:
    """`size` bytes of each value, from its byte number `skip`."""
    mask = (1 << 8 * size) - 1
    return b"".join((value >> 8 * skip & mask).to_bytes(size, "little") for value in values)


def parse_state(body: bytes) -> ExtendedState:
    """The registers in the body of a REGISTERS supplement.

    Raises:
        ProtocolError: RANGE, naming the field.
    """
    least = _REGISTERS.size
    _check_length(len(body) >= least, body, f"registers have {least + HEAD} at least")
    (number,) = _REGISTERS.unpack_from(body)
    check(
        number and not number & ~_ALL_SETS, "supplement_registers.registers", number, "bits of register_set"
    )
    sets = RegisterSet(number)
    expected = least + sum(_SIZES[part] for part in sets)
    _check_length(len(body) == expected, body, f"these sets have {expected + HEAD}")
    return _state(sets, body[least:])


def _state(sets: RegisterSet, data: bytes) -> ExtendedState:
    vectors, at = ExtendedState(sets), 0
    for part in sets:
        component = data[at : at + _SIZES[part]]
        at += len(component)
        match part:
            case RegisterSet.X87:
                vectors.x87 = component
            case RegisterSet.SSE:
                _merge(vectors.zmm, component, 0, 16)
            case RegisterSet.AVX:
                _merge(vectors.zmm, component, 16, 16)
            case RegisterSet.PASID:
                vectors.pasid = int.from_bytes(component, "little")
            case RegisterSet.DEBUG:
                vectors.dr = _split(component, 8)
            case _:
                vectors.k = _split(component[:64], 8)
                _merge(vectors.zmm, component[64:576], 32, 32)
                vectors.zmm[16:] = _split(component[576:], 64)
    return vectors


def _split(data: bytes, size: int) -> list[int]:
    return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]


def _merge(values: list[int], data: bytes, skip: int, size: int) -> None:
    """The inverse of `_join`, on the first 16 of `values`."""
    for number, part in enumerate(_split(data, size)):
        values[number] |= part << 8 * skip


# --- what an instruction changed -------------------------------------------------------


def pack_delta(delta: VectorDelta) -> Iterator[bytes]:
    """The bodies of the VECTOR supplements that tell `delta`."""
    for file, registers in ((_XMM, delta.xmm), (_ZMM, delta.zmm), (_K, delta.k)):
        for number, value in registers.items():
            yield _VECTOR.pack(file, number) + value.to_bytes(_SHAPES[file][1], "little")
    if delta.x87:
        yield _VECTOR.pack(_FX, 0) + delta.x87


def add_change(delta: VectorDelta, body: bytes) -> None:
    """Add to `delta` what the body of one VECTOR supplement tells.

    Raises:
        ProtocolError: RANGE, naming the field.
    """
    least = _VECTOR.size
    _check_length(len(body) >= least, body, f"a vector has {least + HEAD} at least")
    file, number = _VECTOR.unpack_from(body)
    check(file in _SHAPES, "supplement_vector.file", file, "a number of enum register_file")
    count, size = _SHAPES[file]
    check(number < count, "supplement_vector.number", number, f"this file has {count}")
    _check_length(len(body) == least + size, body, f"this file has {size} bytes each")
    if file == _FX:
        delta.x87 = body[least:]
        return
    registers = {_XMM: delta.xmm, _ZMM: delta.zmm, _K: delta.k}[file]
    registers[number] = int.from_bytes(body[least:], "little")
