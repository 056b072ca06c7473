"""Interrupt lines, out and in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from attrs import define, field

from mmiod.device.hooks import name_of

if TYPE_CHECKING:
    from mmiod.device.device import Device
    from mmiod.device.faces import Context

LevelHook = TypeVar("LevelHook", bound=Callable[[Any, bool], None])
LineHook = TypeVar("LineHook", bound=Callable[[Any, int, bool], None])
AcknowledgeHook = TypeVar("AcknowledgeHook", bound=Callable[[Any], int])


@define(eq=False)
class Line:
    """An output line of a device instance."""

    context: Context
    name: str
    level: bool = False

    def set_level(self, level: bool) -> None:
        """Drive the line; driving it to the level it has does nothing."""
        if level != self.level:
            self.level = level
            self.context.set_level(self.name, level)

    def pulse(self) -> None:
        """Up and down at once: for edge-triggered inputs."""
        self.set_level(True)
        self.set_level(False)


@define(eq=False)
class IrqOutput:
    """Declares an output line."""

    name: str = field(default="", init=False)
    acknowledge: str | None = field(default=None, init=False)

    def on_acknowledge(self, hook: AcknowledgeHook) -> AcknowledgeHook:
        """Decorate `hook(self) -> vector`: a vCPU took the interrupt of this line (INTA)."""
        self.acknowledge = name_of(self, hook)
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> IrqOutput: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> Line: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> IrqOutput | Line:
        """Give the live line on a device."""
        return self if instance is None else instance.lines[self.name]

    def names(self) -> tuple[str, ...]:
        """The line's name, as wires write it."""
        return (self.name,)


@define(eq=False)
class IrqOutputs:
    """Declares `count` output lines, wired as `name0`, `name1`, ..."""

    count: int
    name: str = field(default="", init=False)
    lines: tuple[str, ...] = field(default=(), init=False)

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name
        self.lines = tuple(f"{name}{number}" for number in range(self.count))

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> IrqOutputs: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> tuple[Line, ...]: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> IrqOutputs | tuple[Line, ...]:
        """Give the live lines on a device."""
        return self if instance is None else tuple(instance.lines[name] for name in self.lines)

    def names(self) -> tuple[str, ...]:
        """The lines' names, as wires write them."""
        return self.lines


@define(eq=False)
class IrqInput:
    """Declares an input line; what drives it is OR-ed.  On a device: its level."""

    name: str = field(default="", init=False)
    change: str | None = field(default=None, init=False)

    def on_change(self, hook: LevelHook) -> LevelHook:
        """Decorate `hook(self, level)`."""
        self.change = name_of(self, hook)
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> IrqInput: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> bool: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> IrqInput | bool:
        """Give the level on a device."""
        return self if instance is None else instance.inputs[self.name]

    def names(self) -> tuple[str, ...]:
        """The line's name, as wires write it."""
        return (self.name,)

    def deliver(self, device: Device, name: str, level: bool) -> None:
        """A wire changed the level."""
        device.inputs[name] = level
        if self.change is not None:
            getattr(device, self.change)(level)


@define(eq=False)
class IrqInputs:
    """Declares `count` input lines, wired as `name0`, `name1`, ...  On a device: their levels."""

    count: int
    name: str = field(default="", init=False)
    lines: tuple[str, ...] = field(default=(), init=False)
    change: str | None = field(default=None, init=False)

    def on_change(self, hook: LineHook) -> LineHook:
        """Decorate `hook(self, line, level)`."""
        self.change = name_of(self, hook)
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name
        self.lines = tuple(f"{name}{number}" for number in range(self.count))

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> IrqInputs: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> tuple[bool, ...]: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> IrqInputs | tuple[bool, ...]:
        """Give the levels on a device."""
        return self if instance is None else tuple(instance.inputs[name] for name in self.lines)

    def names(self) -> tuple[str, ...]:
        """The lines' names, as wires write them."""
        return self.lines

    def deliver(self, device: Device, name: str, level: bool) -> None:
        """A wire changed a level."""
        device.inputs[name] = level
        if self.change is not None:
            getattr(device, self.change)(int(name.removeprefix(self.name)), level)
