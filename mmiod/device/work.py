"""What a device does with guest memory: a generator, so that it may wait.

    moving = Work()                                 # self.moving -> Job: start, cancel

    @moving.on_run
    def _move(self) -> Moves:
        data = yield MemoryRead(gpa, length)        # bytes of exactly that length
        yield MemoryWrite(gpa, data)                # gives b""

    def _doorbell(self) -> None:
        self.moving.start()

Where guest memory is mapped a run ends in the hook that started it.  Where only messages
reach it the run goes on when they are answered, and the device takes other inputs meanwhile.
One that moves much is continued by a timer, so that no hook takes long.

The timer has the name of the work, and is set whenever a run is unfinished between two hooks.
So it is all that a saved state needs: where the device is made anew (a restore, a reload, a
restart) the run begins anew when it fires.  A run therefore keeps its place in `state`, and
changes that only behind the accesses that belong to a step: doing those again does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from struct import Struct
from types import GeneratorType
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, overload

from attrs import define, field

from mmiod.device.accesses import (
    Access,
    MemoryRead,
    MemoryWrite,
    Parts,
)
from mmiod.device.declarations import Alarm, Effect, Timer
from mmiod.device.hooks import name_of
from mmiod.errors import DeclarationError

if TYPE_CHECKING:
    from mmiod.device.device import Device

ACCESSES: Final = 512
"""Of a run in one hook."""
BYTES: Final = 4 << 20
"""That a run moves in one hook, and what one access has above that."""
WATCH_NS: Final = 10_000_000
"""While messages are waited for the timer fires this often, to no effect: it is there to be saved."""
RANGE: Final = Struct("<QQ")
"""Address and length of what is asked by message; behind it is what is written."""


Moves = Generator[Access, bytes, None]
"""A run.  A part of one that gives a T is a `Generator[Access, bytes, T]`."""
RunHook = TypeVar("RunHook", bound=Callable[[Any], Moves])


@define(eq=False)
class Job(Alarm):
    """The runs of a device instance, one at a time; `cancel` drops the present one."""

    run: Callable[[], Moves] = field(kw_only=True)
    _running: GeneratorType[Access, Any, None] | None = None
    _result: bytes = b""
    """What the run is given when it goes on."""
    _waits_for: MemoryRead | MemoryWrite | None = None
    """By message."""
    _parts: Parts | None = None
    """Of the access that goes by messages: what is behind that one."""
    _again: bool = False
    """Another run was asked for meanwhile."""

    def start(self) -> None:
        """Run, or run once more when the present run ends; never waits."""
        if self._running is None:
            self._begin()
        else:
            self._again = True

    def cancel(self) -> None:
        """Drop the run."""
        self.drop()
        super().cancel()

    def drop(self) -> None:
        """Forget the run, but for the timer: the state is another now."""
        running, self._running = self._running, None
        self._waits_for, self._parts, self._again = None, None, False
        if running is not None and not running.gi_running:  # else it ends where it stands
            running.close()

    def rewind(self) -> None:
        """An unfinished run begins anew, soon: the device's journal does."""
        if self._running is not None:
            self.drop()
            self.set(self.context.clock.now_ns)

    def fired(self) -> None:
        """The timer fired: a run was unfinished."""
        if self._running is None:
            self._begin()
        elif self._waits_for is not None:
            self._watch()
        else:
            self._go_on(self._running, self._result)

    def answered(self, data: bytes | None) -> None:
        """The last message was answered; None if it failed."""
        running, asked, parts = self._running, self._waits_for, self._parts
        if running is not None and asked is not None and parts is not None:
            self._waits_for = self._parts = None
            self._do_parts(running, parts, asked.failed if data is None else data)

    def _begin(self) -> None:
        running = self.run()
        if not isinstance(running, GeneratorType):
            raise TypeError(f"{self.name}: its on_run is no generator function, it gives {running!r:.80}")
        self._running = running
        self._go_on(running, None)

    def _go_on(self, running: GeneratorType[Access, Any, None], result: bytes | None) -> None:
        """Run until the end, or as far as this hook may."""
        memory, accesses, free = self.context.memory, ACCESSES, BYTES
        try:
            while accesses and free > 0:
                access = running.send(result)
                if self._running is not running:  # it was dropped by what it did itself
                    running.close()
                    return
                result = access.perform(memory)
                if result is None:
                    self._do_parts(running, access.apart(), None)
                    return
                accesses -= 1
                free -= len(result) or access.length  # what was read, or what was written
        except StopIteration:
            if self._running is running:
                self._ended()
        else:
            self._result = result or b""
            self.set(self.context.clock.now_ns)

    def _ended(self) -> None:
        self._running = None
        again, self._again = self._again, False
        if again:
            self.set(self.context.clock.now_ns)
        else:
            super().cancel()

    def _do_parts(
        self, running: GeneratorType[Access, Any, None], parts: Parts, result: bytes | None
    ) -> None:
        """Go on with an access that needs messages; behind its last part with the run."""
        memory = self.context.memory
        try:
            while (result := (part := parts.send(result)).perform(memory)) is not None:  # type: ignore[arg-type]  # begins with None
                pass
        except StopIteration as done:
            self._go_on(running, done.value)
        else:
            self._ask(part, parts)

    def _ask(self, access: MemoryRead | MemoryWrite, parts: Parts) -> None:
        self._waits_for, self._parts = access, parts
        self._watch()
        message = RANGE.pack(access.gpa, access.length) + access.sent
        self.context.ask(self.name, 0, access.kind, message)

    def _watch(self) -> None:
        if self.deadline_ns is None:
            self.set(self.context.clock.now_ns + WATCH_NS)


@define(eq=False)
class Work(Timer):
    """Declares work on guest memory, done in runs."""

    hook: str | None = field(default=None, init=False)

    effects: ClassVar[Mapping[str, Effect]] = {
        MemoryRead.kind: Effect.IDEMPOTENT,
        MemoryWrite.kind: Effect.IDEMPOTENT,
    }
    """As those of a service: messages are requests."""

    def on_run(self, hook: RunHook) -> RunHook:
        """Decorate `hook(self) -> Moves`, a generator: one run."""
        self.hook = name_of(self, hook)
        return hook

    def alarm(self, device: Device) -> Job:
        """The live work of a device."""
        if self.hook is None:
            raise DeclarationError(f"{self.name} has no on_run")
        return Job(device.context, self.name, run=getattr(device, self.hook))

    def fired(self, device: Device) -> None:
        """Its timer is due."""
        device.jobs[self.name].fired()

    def replied(self, device: Device, number: int, data: bytes) -> None:  # noqa: ARG002
        """A message was answered."""
        device.jobs[self.name].answered(data)

    def failed(self, device: Device, number: int, reason: str) -> None:  # noqa: ARG002
        """A message will not be answered."""
        device.jobs[self.name].answered(None)

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> Work: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> Job: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> Work | Job:
        """Give the live work on a device."""
        return self if instance is None else instance.jobs[self.name]
