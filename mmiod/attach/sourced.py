"""Exits of a source on their way in and out: its structure, and guest memory that it points to."""

from __future__ import annotations

from mmiod.errors import ProtocolError
from mmiod.machine.memory import GuestMemory
from mmiod.protocol.exit import Answer, Reply, SourceExit
from mmiod.protocol.sources import Settled, Source, read
from mmiod.values import Completion, Exit


def understood(arrived: Exit | SourceExit, source: Source | None, memory: GuestMemory) -> Exit | Settled:
    """An exit as it is, or what a source's structure says.

    Raises:
        ProtocolError: naming the field of the structure.
    """
    if not isinstance(arrived, SourceExit):
        return arrived
    assert source is not None, "a session takes no EXIT_SOURCE without a source"
    try:
        return read(source, arrived, memory)
    except ProtocolError as error:
        error.subject = arrived.sequence
        raise


def answered(
    source: Source | None, arrived: SourceExit, exit_: Exit, completion: Completion, memory: GuestMemory
) -> Answer:
    """The completion as the source expects it; what it writes to reachable memory is written."""
    assert source is not None
    answer = source.answer(arrived, exit_, completion)
    return stored(answer, memory) if isinstance(answer, Reply) else answer


def stored(reply: Reply, memory: GuestMemory) -> Reply:
    """The reply without the writes that the daemon can do itself."""
    left = []
    for gpa, data in reply.memory:
        if memory.holds(gpa, len(data)):
            memory.write(gpa, data)
        else:
            left.append((gpa, data))
    return Reply(reply.body, left, reply.vectors)
