"""Accesses that stand at a break."""

from __future__ import annotations

from attrs import frozen


@frozen
class BreakRequest:
    """Which accesses are to stop: `register` takes * and ?, `direction` is read or write, `value` what is
    written, or would be read.  What nobody lets go on does so after `timeout_ms` (30000 if left out).
    """

    device: str
    vm: str | None = None
    register: str | None = None
    direction: str | None = None
    value: int | None = None
    timeout_ms: int | None = None


@frozen
class Stop:
    """An access that stands: nothing of it was done.

    `value` is what is written, or what a read would give as far as that is known without one.
    """

    number: int
    vm: str
    vcpu: int
    sequence: int
    space: str
    direction: str
    address: int
    size: int
    value: int | None
    device: str
    generation: int
    region: str
    offset: int
    register: str | None
    fields: dict[str, int]
    pc: int | None


@frozen
class Over:
    """A stop has ended: continued, answered (by `value`), timeout, cleared (nobody breaks there any more),
    paused, reset, dropped (its client has gone), or posted (nobody waits for that write: it did not stop).
    """

    number: int
    how: str
    value: int | None


@frozen
class Broken:
    """A stop, or the end of one, after `lost` of them that were not told.

    The first reply has neither: it says in words what the break `covers`, what `timeout_ms` is, and
    whether registers of the device were published else: while this call lasts nothing of it is.
    """

    stop: Stop | None
    over: Over | None
    lost: int
    covers: str | None = None
    timeout_ms: int | None = None
    withdrawn: bool | None = None


@frozen
class ContinueRequest:
    """Let what stands at a device go on, or stop `number` only.

    With a `value` the device is not asked: a read gives that, a write is dropped.
    """

    device: str
    vm: str | None = None
    number: int | None = None
    value: int | None = None


@frozen
class Continued:
    """The stops that ended."""

    numbers: list[int]
