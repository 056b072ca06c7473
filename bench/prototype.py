"""As little as Python can do for one instruction: the figures beside ours on the same computer.

MOV between a register and memory, decoded in one pass into two closures; the plan is a
generator with one request.  There are no checks, no other modes and no faults.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

Request = tuple[str, int, int]
Registers = list[int]
Delta = tuple[int, dict[int, int]]
"""RIP and registers."""
Plan = Callable[[Registers, int], Generator[Request, int, Delta]]
Plans = dict[tuple[int, bytes], Plan]
"""By mode and bytes."""
Address = Callable[[Registers], int]

MODE: Final = 64
_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_IGNORED: Final = frozenset(b"\x26\x2e\x36\x3e\xf2\xf3")
_OPCODES: Final = {0x88: ("store", 1), 0x89: ("store", 0), 0x8A: ("load", 1), 0x8B: ("load", 0)}
_DISPLACEMENTS: Final = (0, 1, 4)


def plan(code: bytes) -> Plan:
    """Decode, and build what executes."""
    at = rex = 0
    wide = False
    while True:
        byte = code[at]
        at += 1
        if byte == 0x66:
            wide = True
        elif byte & 0xF0 == 0x40:
            rex = byte
        elif byte not in _IGNORED:
            break
    shape, size = _OPCODES[byte]
    size = size or (8 if rex & 8 else 2 if wide else 4)
    modrm = code[at]
    mod, register, base = modrm >> 6, modrm >> 3 & 7 | rex << 1 & 8, modrm & 7 | rex << 3 & 8
    at += 1
    index, scale = None, 0
    if base & 7 == 4:
        sib = code[at]
        at += 1
        base, index, scale = sib & 7 | rex << 3 & 8, sib >> 3 & 7 | rex << 2 & 8, sib >> 6
    width = _DISPLACEMENTS[mod]
    displacement = int.from_bytes(code[at : at + width], "little", signed=True)
    address = _address(base, None if index == 4 else index, scale, displacement)
    return (_load if shape == "load" else _store)(address, register, size, at + width)


def _address(base: int, index: int | None, scale: int, displacement: int) -> Address:
    if index is None:
        return lambda registers: registers[base] + displacement & _MASK
    return lambda registers: registers[base] + (registers[index] << scale) + displacement & _MASK


def _load(address: Address, register: int, size: int, length: int) -> Plan:
    keep = 0 if size >= 4 else -1 << 8 * size

    def run(registers: Registers, rip: int) -> Generator[Request, int, Delta]:
        value = yield "read", address(registers), size
        return rip + length & _MASK, {register: registers[register] & keep | value}

    return run


def _store(address: Address, register: int, size: int, length: int) -> Plan:
    mask = (1 << 8 * size) - 1

    def run(registers: Registers, rip: int) -> Generator[Request, int, Delta]:
        yield "write", address(registers), registers[register] & mask
        return rip + length & _MASK, {}

    return run


def run(plans: Plans, code: bytes, registers: Registers, answer: int) -> Delta:
    """Find a plan and execute it."""
    found = plans.get((MODE, code))
    if found is None:
        found = plans[MODE, code] = plan(code)
    steps = found(registers, 0x1000)
    next(steps)
    try:
        steps.send(answer)
    except StopIteration as end:
        delta: Delta = end.value
        return delta
    raise AssertionError(code)
