"""What a subclass may do with the declarations of its bases, and what would change others silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, field

from mmiod.device import (
    Buffer,
    Device,
    Effect,
    Fifo,
    IrqInput,
    IrqInputs,
    IrqOutput,
    Region,
    Register,
    Requests,
    Stream,
    Timer,
)
from mmiod.errors import DeclarationError
from mmiod.testing.harness import Harness


@define
class Queued:
    """Of a FIFO."""

    queue: list[int] = field(factory=list)


class Base(Device):
    """One of each."""

    registers = Region(0x40)
    raw = Region(8)
    state: Queued
    control = Register(0, region=registers)
    bank = Register(4, region=registers).array(2)
    queue = Fifo(8, depth=2, region=registers)
    window = Buffer(0x10, 4, region=registers)
    irq = IrqOutput()
    wake = IrqInput()
    wakes = IrqInputs(2)
    late = Timer()
    line = Stream()
    disk = Requests({"get": Effect.IDEMPOTENT})

    @control.on_write
    def _controlled(self, value: int) -> None:
        self.late.set(value)

    @raw.on_read
    def _load(self, _offset: int, _size: int) -> int:
        return 0

    @raw.on_write
    def _store(self, _offset: int, _size: int, _value: int) -> None:
        """Nothing."""


DECORATORS: dict[str, Callable[..., Any]] = {
    "control.value": Base.control.value,
    "control.on_read": Base.control.on_read,
    "control.on_write": Base.control.on_write,
    "control.on_read_batch": Base.control.on_read_batch,
    "control.on_write_batch": Base.control.on_write_batch,
    "bank.value": Base.bank.value,
    "bank.on_read": Base.bank.on_read,
    "bank.on_write": Base.bank.on_write,
    "queue.on_read": Base.queue.on_read,
    "queue.on_write": Base.queue.on_write,
    "queue.on_underrun": Base.queue.on_underrun,
    "queue.on_overrun": Base.queue.on_overrun,
    "window.on_read": Base.window.on_read,
    "window.on_write": Base.window.on_write,
    "raw.on_read": Base.raw.on_read,
    "raw.on_write": Base.raw.on_write,
    "raw.on_read_batch": Base.raw.on_read_batch,
    "raw.on_write_batch": Base.raw.on_write_batch,
    "raw.on_enqueue": Base.raw.on_enqueue,
    "irq.on_acknowledge": Base.irq.on_acknowledge,
    "wake.on_change": Base.wake.on_change,
    "wakes.on_change": Base.wakes.on_change,
    "late.on_fire": Base.late.on_fire,
    "line.on_receive": Base.line.on_receive,
    "line.room": Base.line.room,
    "disk.on_reply": Base.disk.on_reply,
    "disk.on_failure": Base.disk.on_failure,
}


@pytest.mark.parametrize("name", DECORATORS)
def test_a_class_that_is_done_is_not_decorated_again(name: str) -> None:
    """Each decorator refuses, names hook and declaration, and the base does as before."""

    def _mine(*_: object) -> None:
        raise AssertionError("the base's declaration was changed")

    declared = name.partition(".")[0]
    with pytest.raises(
        DeclarationError, match=rf"^_mine decorates {declared} of a class that is done; override"
    ):
        DECORATORS[name](_mine)
    device = Harness(Base)
    device.write("control", 7)
    assert 7 == device.device.late.deadline_ns


def test_a_subclass_overrides_the_method_or_declares_again() -> None:
    """Both are the subclass's own, and the base keeps its behaviour."""

    class Overrides(Base):
        def _controlled(self, value: int) -> None:
            self.late.set(2 * value)

    class Again(Base):
        control = Register(0, region=Base.registers)

        @control.on_write
        def _written(self, value: int) -> None:
            self.late.set(3 * value)

    found = []
    for kind in (Base, Overrides, Again):
        device = Harness[Base](kind)
        device.write("control", 5)
        found.append(device.device.late.deadline_ns)
    assert [5, 10, 15] == found


class One(Device):
    """A base."""

    main = Region(4)
    status = Register(0, region=main)


class Two(Device):
    """Another one, which knows nothing of the first."""

    extra = Region(4)
    status = Register(0, region=extra, reset=1)


class Three(Device):
    """Its method has the name of another's register."""

    extra = Region(4)

    def status(self) -> int:
        """Nothing."""
        return 0


@pytest.mark.parametrize("other", [Two, Three])
def test_two_bases_with_one_name_are_refused(other: type[Device]) -> None:
    """One would silently replace the other's: both classes and the name are told."""
    for bases in ((One, other), (other, One)):
        with pytest.raises(
            DeclarationError, match=rf"^{bases[0].__name__} and {bases[1].__name__} both have status"
        ):
            type("Both", bases, {})


def test_the_subclass_may_decide_itself() -> None:
    """What it declares is what is meant, and its own subclasses inherit that."""

    class Both(One, Two):
        status = Register(1, region=One.main, reset=7)

    class Heir(Both):
        pass

    assert [7, 7] == [kind.declared["status"].reset for kind in (Both, Heir)]


def test_one_base_by_two_ways_is_one() -> None:
    """A diamond has each declaration once."""

    class Left(One):
        pass

    class Right(One):
        pass

    class Diamond(Left, Right):
        pass

    assert One.status is Diamond.declared["status"]
