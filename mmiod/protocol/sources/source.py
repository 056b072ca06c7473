"""What an exit source is: bytes of its own become an exit, a completion becomes bytes of its own.

A source is a module of this package with the two functions of `Source`.  Both are pure:
what they need from before, the answer takes from the structure that came.  The guest's
memory is only read here, for sources whose structure points there; what the daemon does
not reach is asked for.

An exit of another kind than accesses and instructions (CPUID, an interrupt window) is
none of mmiod's: the answer is FORWARD.

Specification: docs/sources.md.
"""

from __future__ import annotations

from typing import Any, Protocol

from attrs import frozen

from mmiod.errors import MmiodError
from mmiod.protocol.exit import Answer, SourceExit
from mmiod.values import (
    Access,
    Completion,
    DecodedExit,
    Direction,
    Exit,
    NeedMemory,
    NeedRegisters,
    RawExit,
    RegisterSet,
    Space,
    VcpuState,
)


class Memory(Protocol):
    """Guest memory as far as the daemon reaches it."""

    def holds(self, gpa: int, length: int) -> bool:
        """Whether all of it is reachable."""

    def read(self, gpa: int, length: int) -> bytes:
        """Bytes of it."""


class Source(Protocol):
    """The face of a source's module."""

    def read(self, arrived: SourceExit, memory: Memory) -> Exit | Settled:
        """What happened.

        Raises:
            Settle: the exit is answered now.
            ProtocolError: the structure is none of this source's, naming the field.
        """

    def answer(self, arrived: SourceExit, exit_: Exit, completion: Completion) -> Answer:
        """The structure as it goes back, or the completion where the structure has no room for it."""


@frozen
class Settled:
    """An exit that no instruction and no waiting access belongs to.

    `posted` are writes that nobody waits for, to be done before the answer is given.
    """

    vcpu: int
    sequence: int
    answer: Answer
    posted: tuple[Access, ...] = ()


class Settle(MmiodError):
    """Reading ends: the exit is answered at once, because something is missing or malformed."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(repr(answer))
        self.answer = answer


def read(source: Source, arrived: SourceExit, memory: Memory) -> Exit | Settled:
    """What an exit of a source comes to.

    Raises:
        ProtocolError: naming the field of the source's structure.
    """
    try:
        return source.read(arrived, memory)
    except Settle as settle:
        return Settled(arrived.vcpu, arrived.sequence, settle.answer)


# --- for the sources -----------------------------------------------------------------


def access(
    arrived: SourceExit,
    space: Space,
    direction: Direction,
    address: int,
    size: int,
    data: bytes = b"",
    *,
    count: int = 1,
    stride: int = 0,
) -> DecodedExit:
    """An access that the source has decoded; `data` counts for a write only."""
    written = data if direction else b""
    return DecodedExit(
        arrived.vcpu, arrived.sequence, space, direction, address, size, count, stride, written
    )


def instruction(arrived: SourceExit, state: VcpuState, code: bytes = b"", **hints: Any) -> RawExit:  # noqa: ANN401
    """An instruction to execute: `code` is what the source has of it, `hints` are RawExit's."""
    supplied = arrived.supplied
    state.extended = supplied.extended
    return RawExit(
        arrived.vcpu,
        arrived.sequence,
        state,
        arrived.code or code,
        translations=supplied.translations,
        memory=supplied.memory,
        **hints,
    )


def supplied_state(arrived: SourceExit) -> VcpuState:
    """The registers that the structure lacks.

    Raises:
        Settle: they did not come along.
    """
    if arrived.state is None:
        raise Settle(NeedRegisters(RegisterSet.GENERAL))
    return arrived.state


def guest_bytes(arrived: SourceExit, memory: Memory, gpa: int, size: int) -> bytes:
    """Bytes of guest memory that the structure points to.

    Raises:
        Settle: only the hypervisor reaches them, and they did not come along.
    """
    if memory.holds(gpa, size):
        return memory.read(gpa, size)
    for start, data in arrived.supplied.memory:
        if start <= gpa and gpa + size <= start + len(data):
            return data[gpa - start : gpa - start + size]
    raise Settle(NeedMemory(gpa, size))
