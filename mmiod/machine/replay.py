"""A device lives through its journal: the same answers come, and nothing goes out."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from mmiod.device import Context, Device, Pending, Region, Request
from mmiod.device.faces import Ranges
from mmiod.machine.inputs import INPUTS, Input
from mmiod.machine.journal import DONE, Entry
from mmiod.values import Space


class DivergedError(Exception):
    """A device did not do again what it did: it depends on more than its inputs."""


@define(eq=False)
class Replay:
    """The context of a device that is made and brought to where its journal ends."""

    entries: Sequence[Entry]
    surroundings: Context
    """Where RAM's size is asked, as it is now."""
    owing: bool = False
    """Whether the device owes an answer."""
    inputs: int = 0
    """How many came from outside."""
    device: Device = field(init=False)
    _position: int = 0

    @property
    def ended(self) -> bool:
        """Whether the device has lived through all of it."""
        return self._position == len(self.entries)

    def begin(self, device: Device) -> None:
        """The device is made."""
        self.device = device

    def step(self) -> None:
        """Give the next input from outside.

        Raises:
            DivergedError: the device asked something else than it did.
            Exception: whatever a hook raises.
        """
        self.inputs += 1
        self._perform(self._next_input())

    def _next_input(self) -> Input:
        entry = self._next()
        if entry is DONE or len(entry) != 2:
            raise DivergedError(f"{type(self.device).__name__} ended a hook without asking what it asked")
        return entry

    def _perform(self, input_: Input) -> None:
        kind, arguments = input_
        answer = INPUTS[kind](self.device, *arguments)
        if isinstance(answer, Pending):
            self.owing = True
        if kind == "reset":
            self.owing = False
        self._inner()
        if self._next() is not DONE:
            raise DivergedError(f"{type(self.device).__name__} did not ask in {kind} what it asked")

    def _inner(self) -> None:
        """Inputs that an output of the device itself brought about."""
        while self._position < len(self.entries):
            entry = self.entries[self._position]
            if entry is DONE or len(entry) != 2:
                return
            self._position += 1
            self._perform(entry)

    def _answer(self) -> object:
        self._inner()
        entry = self._next()
        if entry is DONE or len(entry) != 1:
            raise DivergedError(f"{type(self.device).__name__} asks what it did not ask")
        return entry[0]

    def _next(self) -> Entry:
        if self._position == len(self.entries):
            raise DivergedError(f"{type(self.device).__name__} goes on behind the end of its journal")
        self._position += 1
        return self.entries[self._position - 1]

    # --- what the device asks ------------------------------------------------------------

    @property
    def clock(self) -> _Clock:  # noqa: D102
        return _Clock(self)

    @property
    def memory(self) -> _Memory:  # noqa: D102
        return _Memory(self)

    @property
    def bus(self) -> _Bus:  # noqa: D102
        return _Bus(self)

    @property
    def storage(self) -> _Storage:  # noqa: D102
        return _Storage(self)

    def number(self) -> int:
        """The next answer, a number."""
        answer = self._answer()
        assert isinstance(answer, int), answer
        return answer

    def data(self) -> bytes:
        """The next answer, bytes."""
        answer = self._answer()
        assert isinstance(answer, bytes), answer
        return answer

    def data_if_any(self) -> bytes | None:
        """The next answer: bytes, or that only messages give them."""
        answer = self._answer()
        assert answer is None or isinstance(answer, bytes), answer
        return answer

    # --- what the device does: it is done ------------------------------------------------------

    def set_level(self, line: str, level: bool) -> None:  # noqa: ARG002, D102
        self._inner()

    def complete(self, value: int) -> None:  # noqa: ARG002, D102
        self.owing = False

    def notify(self, event: str, **fields: object) -> None:  # noqa: D102
        pass

    def request(self, kind: Request, value: int = 0) -> None:  # noqa: D102
        pass

    def place(self, region: Region, space: Space, base: int | None) -> None:  # noqa: D102
        pass

    def msi(self, address: int, data: int) -> None:  # noqa: D102
        pass

    def arm(self, timer: str, deadline_ns: int | None) -> None:  # noqa: D102
        pass

    def send(self, backend: str, data: bytes) -> None:  # noqa: D102
        pass

    def ready(self, backend: str) -> None:  # noqa: D102
        pass

    def ask(self, backend: str, number: int, kind: str, data: bytes) -> None:  # noqa: D102
        pass

    def cancel(self, backend: str, number: int) -> None:  # noqa: D102
        pass


@define
class _Clock:
    replay: Replay

    @property
    def now_ns(self) -> int:
        return self.replay.number()

    @property
    def wall_s(self) -> int:
        return self.replay.number()


@define
class _Memory:
    replay: Replay

    @property
    def below_4g(self) -> int:
        return self.replay.surroundings.memory.below_4g

    @property
    def above_4g(self) -> int:
        return self.replay.surroundings.memory.above_4g

    def read(self, gpa: int, length: int) -> bytes:  # noqa: ARG002
        return self.replay.data()

    def fetch(self, gpa: int, length: int) -> bytes | None:  # noqa: ARG002
        return self.replay.data_if_any()

    def store(self, gpa: int, data: bytes) -> bool:  # noqa: ARG002
        return bool(self.replay.number())

    def gather(self, ranges: Ranges) -> bytes | None:  # noqa: ARG002
        return self.replay.data_if_any()

    def holds(self, gpa: int, length: int) -> bool:  # noqa: ARG002
        return bool(self.replay.number())

    def by_message(self, gpa: int, length: int) -> bool:  # noqa: ARG002
        return bool(self.replay.number())

    def write(self, gpa: int, data: bytes) -> None:
        pass

    def scatter(self, ranges: Ranges, data: bytes) -> bool:  # noqa: ARG002
        return bool(self.replay.number())


@define
class _Storage:
    """What was written is there still."""

    replay: Replay

    def read(self, region: str, offset: int, length: int) -> bytes:  # noqa: ARG002
        return self.replay.data()

    def write(self, region: str, offset: int, data: bytes) -> None:
        pass

    def clear(self, region: str, offset: int, length: int) -> None:
        pass


@define
class _Bus:
    replay: Replay

    def read(self, space: Space, address: int, size: int) -> int:  # noqa: ARG002
        return self.replay.number()

    def write(self, space: Space, address: int, size: int, value: int) -> None:  # noqa: ARG002
        self.replay._inner()  # noqa: SLF001  # its own lines and regions may have answered


def adopt(device: Device, context: Context) -> None:
    """Give a device another context, with all its parts."""
    device.context = context
    for line in device.lines.values():
        line.context = context
    for alarm in device.alarms.values():
        alarm.context = context
    for channel in device.channels.values():
        channel.context = context
    for client in device.clients.values():
        client.context = context
    for pages in device.pages.values():
        pages.context = context
