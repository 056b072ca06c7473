"""What a plan asks of its driver, one step at a time.

Addresses are linear and sizes are the operand's, in bytes: the driver translates,
splits at pages and devices, and answers with the value (0 where there is none).
Every memory operand is probed before the first effect of the instruction, or of the
iteration of a REP, so a driver may throw `GuestFault` or `Suspend` at any `Probe`.
"""

from __future__ import annotations

from collections.abc import Generator

from attrs import define

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


Step = Probe | Read | ReadSystem | Write | Cas | In | Out
Run = Generator[Step, int, Delta]
"""A plan under way: yields steps, is sent their answers, returns what it did."""
