"""Timers on the guest's clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from attrs import define, field

from mmiod.device.hooks import name_of

if TYPE_CHECKING:
    from mmiod.device.device import Device
    from mmiod.device.faces import Context

FireHook = TypeVar("FireHook", bound=Callable[[Any], None])


@define(eq=False)
class Alarm:
    """A timer of a device instance; `deadline_ns` is guest time, None while not armed."""

    context: Context
    name: str
    deadline_ns: int | None = None

    def set(self, deadline_ns: int) -> None:
        """Fire once, when guest time has reached `deadline_ns`."""
        self.deadline_ns = deadline_ns
        self.context.arm(self.name, deadline_ns)

    def cancel(self) -> None:
        """Do not fire."""
        if self.deadline_ns is not None:
            self.deadline_ns = None
            self.context.arm(self.name, None)


@define(eq=False)
class Timer:
    """Declares a one-shot timer on the guest's clock."""

    name: str = field(default="", init=False)
    fire: str | None = field(default=None, init=False)

    def on_fire(self, hook: FireHook) -> FireHook:
        """Decorate `hook(self)`; a periodic timer sets itself again."""
        self.fire = name_of(self, hook)
        return hook

    def alarm(self, device: Device) -> Alarm:
        """The timer of a device instance."""
        return Alarm(device.context, self.name)

    def fired(self, device: Device) -> None:
        """The timer of a device is due."""
        if self.fire is not None:
            getattr(device, self.fire)()

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> Timer: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> Alarm: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> Timer | Alarm:
        """Give the live timer on a device."""
        return self if instance is None else instance.alarms[self.name]
