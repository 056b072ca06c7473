"""What a plan asks of its driver, one step at a time.

Addresses are linear and sizes are the operand's, in bytes: the driver translates,
splits at pages and devices, and answers with the value (0 where there is none).

What may stop an instruction comes before its first effect (of a REP: before the first of
each iteration).  So a driver may throw `GuestFault` or `Suspend` at any `Probe` or
`Transfer`, and at the first access: elsewhere something has been done.

Where there are several accesses every operand in memory was probed before the first.
A `Read` or `Write` that is the only access of its plan is not: the driver checks it
itself before it makes it.
"""

from __future__ import annotations

from collections.abc import Generator

from attrs import define, frozen

from mmiod.values import Delta, Intent


@define
class Probe:
    """Translate and check these bytes; nothing is accessed."""

    address: int
    size: int
    intent: Intent


@define
class Read:
    """Read memory; the answer is the value."""

    address: int
    size: int


@define
class ReadSystem:
    """Read a system structure as the processor itself does, whatever the CPL."""

    address: int
    size: int


@define
class WriteSystem:
    """Write a system structure as the processor itself does, whatever the CPL."""

    address: int
    size: int
    value: int


@define
class ProbeSystem:
    """Find out whatever has to be asked for before a `WriteSystem` there; a fault is not raised yet."""

    address: int
    size: int


@define
class Write:
    """Write memory."""

    address: int
    size: int
    value: int


@define
class Cas:
    """Write `new` if memory holds `old`, atomically; the answer is what it held.

    `old` was read by the step before: a device that nobody else can reach between the
    two is only written, and the answer is `old`.
    """

    address: int
    size: int
    old: int
    new: int


@define
class In:
    """Read a port; the answer is the value."""

    port: int
    size: int


@define
class Out:
    """Write a port."""

    port: int
    size: int
    value: int


@define
class ProbePort:
    """Make sure that a port can be written; nothing is accessed."""

    port: int
    size: int


@define
class ReadMsr:
    """Read a model-specific register; the answer is the value."""

    number: int


@define
class WriteMsr:
    """Write a model-specific register."""

    number: int
    value: int


@define
class Enqueue:
    """Write the 64 bytes of a command at a probed address; the answer is 1 if they were taken."""

    address: int
    value: int


@frozen
class Linear:
    """Where a string's next element is in memory."""

    address: int


@frozen
class Port:
    """The port of a string of ports."""

    number: int


@frozen
class Pattern:
    """What every element of a STOS is."""

    value: int


@define
class Transfer:
    """Move `count` elements of a string at once, if one device takes them as a batch.

    In memory they follow each other, downwards if `down`, and lie in one page; translating
    them is a probe.  The answer is how many elements were moved, in order; the next one
    then goes alone, as all do if it is 0.
    """

    source: Linear | Port | Pattern
    target: Linear | Port
    size: int
    count: int
    down: bool


Step = (
    Probe
    | Read
    | ReadSystem
    | WriteSystem
    | Write
    | Cas
    | In
    | Out
    | ProbePort
    | ProbeSystem
    | ReadMsr
    | WriteMsr
    | Enqueue
    | Transfer
)
Run = Generator[Step, int, Delta]
"""A plan under way: yields steps, is sent their answers, returns what it did."""
