"""A machine of one device, on which the child repeats what the guest did lately."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import thread_time_ns
from typing import TypeVar

from attrs import define, field

from mmiod.device import Pending
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.machine.mark import HookDeadlineExceeded
from mmiod.machine.snapshot import take
from mmiod.machine.waist import Named
from mmiod.plugins.question import Step
from mmiod.values import READ, Direction, ones

T = TypeVar("T")


@define(eq=False)
class Stage(Machine):
    """A machine of one device, with nobody to tell."""

    failed: BaseException | None = None

    def quarantined(self, _host: Named, reason: BaseException) -> None:
        """Keep what a hook raised."""
        self.failed = reason


def timed(deadline_ns: int, action: Callable[[], T]) -> T:
    """Run an action; the deadline is the processor's time, as a child that gives way to guests may wait.

    Raises:
        HookDeadlineExceeded: it took longer.
    """
    started = thread_time_ns()
    result = action()
    if thread_time_ns() - started > deadline_ns:
        raise HookDeadlineExceeded(f"more than {deadline_ns // 1_000_000} ms")
    return result


@define(eq=False)
class Run:
    """A generation on the guest's last accesses."""

    host: InlineHost
    stage: Stage
    deadline_ns: int
    answers: list[str] = field(factory=list)

    def act(self, steps: Sequence[Step]) -> None:
        """Do them, until one fails."""
        for step in steps:
            try:
                answer = timed(self.deadline_ns, partial(self._answer, *step))
            except HookDeadlineExceeded as error:
                self.stage.failed = error
                return
            if self.stage.failed is not None:
                return
            self.answers.append(answer)

    def _answer(self, name: str, offset: int, size: int, direction: int, value: int, count: int) -> str:
        host, region = self.host, self.host.device.regions.get(name)
        host.owes = None  # nobody is here who could complete it
        if region is None or offset + size > region.length:
            return "nothing there"
        if count > 1:
            taken = min(count, max(1, 64 // size))
            if direction == READ:
                return host.read_batch(name, offset, size, taken, 0).hex()
            data = (value & ones(taken * size)).to_bytes(taken * size, "little")
            return f"{host.write_batch(name, offset, size, data, 0)} taken"
        answer = host.access(name, offset, size, Direction(direction), value)
        return answer.name if isinstance(answer, Pending) else f"{answer:#x}"


def broken(run: Run) -> Iterator[tuple[str, Exception]]:
    """The registers that cannot be inspected, and why."""
    device = run.host.device
    for name, register in device.declared.items():
        try:
            register.__get__(device, type(device))
        except Exception as error:  # noqa: BLE001  # a plugin may raise anything
            yield name, error


def differences(old: Run, new: Run, steps: Sequence[Step]) -> Iterator[str]:
    """What the guest would have seen otherwise, and what is otherwise afterwards, in words."""
    for step, was, now in zip(steps, old.answers, new.answers, strict=False):
        if was != now:
            yield f"{words(step)}: was {was}, is {now}"
    before, after = take(old.host.device), take(new.host.device)
    for part in ("registers", "lines", "timers"):
        was, now = getattr(before, part), getattr(after, part)
        for name in was:
            if name in now and was[name] != now[name]:
                yield f"{part}.{name} afterwards: was {was[name]}, is {now[name]}"


def words(step: Step) -> str:
    """An access, for people."""
    region, offset, size, direction, value, _ = step
    what = "read" if direction == READ else f"write of {value:#x}"
    return f"{what}, {size} bytes at {region}+{offset:#x}"
