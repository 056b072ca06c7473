"""What reaches the host's side: streams of bytes, services with requests."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from attrs import define, field

from mmiod.device.hooks import name_of

if TYPE_CHECKING:
    from mmiod.device.device import Device
    from mmiod.device.faces import Context

ReceiveHook = TypeVar("ReceiveHook", bound=Callable[[Any, bytes], None])
RoomHook = TypeVar("RoomHook", bound=Callable[[Any], int])
ReplyHook = TypeVar("ReplyHook", bound=Callable[[Any, int, bytes], None])
FailureHook = TypeVar("FailureHook", bound=Callable[[Any, int, str], None])


@define(eq=False)
class Channel:
    """A byte stream of a device instance towards its backend."""

    context: Context
    name: str

    def send(self, data: bytes) -> None:
        """Hand bytes to the backend; never waits."""
        self.context.send(self.name, data)

    def ready(self) -> None:
        """Tell the backend that `room` may have grown; never waits."""
        self.context.ready(self.name)


@define(eq=False)
class Stream:
    """Declares a byte stream to a backend that the machine file names (a file, a socket, ...)."""

    name: str = field(default="", init=False)
    receive: str | None = field(default=None, init=False)
    capacity: str | None = field(default=None, init=False)

    def on_receive(self, hook: ReceiveHook) -> ReceiveHook:
        """Decorate `hook(self, data)`: bytes came from the backend."""
        self.receive = name_of(self, hook)
        return hook

    def room(self, hook: RoomHook) -> RoomHook:
        """Decorate the pure `hook(self) -> int`: how many bytes the device takes now.

        The backend keeps the rest until the device calls `ready`.
        """
        self.capacity = name_of(self, hook)
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> Stream: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> Channel: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> Stream | Channel:
        """Give the live stream on a device."""
        return self if instance is None else instance.channels[self.name]


class Effect(enum.Enum):
    """What becomes of a request that was under way when its backend died."""

    IDEMPOTENT = "idempotent"
    """It is done again."""
    QUERYABLE = "queryable"
    """The backend is asked what became of it."""
    AT_MOST_ONCE = "at most once"
    """It is never done again: event `effect_unknown`, and the device's `on_failure`."""


@define(eq=False)
class Client:
    """A device instance's side of a service; `number` is its last request's."""

    context: Context
    name: str
    effects: Mapping[str, Effect]
    number: int = 0
    restored: bool = False
    """In `on_restore`: the backend goes on from what it kept when the state was saved."""

    def send(self, kind: str, data: bytes = b"") -> int:
        """Ask; never waits.  The number comes back with the reply, or the failure."""
        if kind not in self.effects:
            raise ValueError(f"{self.name}: {kind!r} is no request; there are {', '.join(self.effects)}")
        self.number += 1
        self.context.ask(self.name, self.number, kind, data)
        return self.number

    def cancel(self, number: int) -> None:
        """Ask the backend to end a request early; it is still answered, perhaps in full."""
        self.context.cancel(self.name, number)


@define(eq=False)
class Requests:
    """Declares a service that a backend renders: numbered requests, a reply or a failure for each.

    `effects` says of each kind of request what may be done when it is in doubt.
    """

    effects: Mapping[str, Effect]
    name: str = field(default="", init=False)
    reply: str | None = field(default=None, init=False)
    failure: str | None = field(default=None, init=False)

    def client(self, context: Context) -> Client:
        """The side of a device instance."""
        return Client(context, self.name, self.effects)

    def on_reply(self, hook: ReplyHook) -> ReplyHook:
        """Decorate `hook(self, number, data)`."""
        self.reply = name_of(self, hook)
        return hook

    def on_failure(self, hook: FailureHook) -> FailureHook:
        """Decorate `hook(self, number, reason)`: there will be no reply."""
        self.failure = name_of(self, hook)
        return hook

    def replied(self, device: Device, number: int, data: bytes) -> None:
        """The backend of a device has answered."""
        if self.reply is not None:
            getattr(device, self.reply)(number, data)

    def failed(self, device: Device, number: int, reason: str) -> None:
        """The backend of a device will not answer."""
        if self.failure is not None:
            getattr(device, self.failure)(number, reason)

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> Requests: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> Client: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> Requests | Client:
        """Give the live service on a device."""
        return self if instance is None else instance.clients[self.name]
