"""The inputs of a device besides accesses: one in quarantine takes none, and misses some."""

from __future__ import annotations

from typing import Final

from attrs import define, field

from mmiod.device import IrqOutput, Register
from mmiod.device.dispatch import RegisterAnswerer
from mmiod.machine.inputs import UNANSWERED, Input, again
from mmiod.machine.serving import Serving
from mmiod.values import WRITE

MAX_MISSED: Final = 1024
"""What of backends waits for a device in quarantine."""
FAILED_AT: Final = "the device failed at the answer"


@define(eq=False)
class Inlets(Serving):
    """A device with its wires, timers and backends."""

    missed: list[Input] = field(factory=list)
    """What came in quarantine, or while it was held, and is not lost: bytes and answers of
    backends, doorbells, a reset."""
    held: bool = False
    """It gets no input besides accesses: whoever migrates it wants it to stand still."""
    repeated: Input | None = None
    """The input that failed and is given once more."""

    def reset(self) -> None:
        """Power-on or system reset; a device in quarantine is reset when it comes back."""
        self.owes = None
        if self.held:
            self.held = False
            self.missed.clear()
        if self.failure is None:
            self.feed(None, "reset")
        else:
            self.missed[:] = [("reset", ())]

    def deliver(self, line: str, level: bool) -> None:
        """A wire changed the level of an input line."""
        if self.failure is None and not self.held:
            self.feed(None, "deliver", line, level)

    def fire(self, timer: str) -> None:
        """A timer is due."""
        if self.failure is None and not self.held:  # what holds it sets its timers anew in the end
            self.feed(None, "fire", timer)

    def receive(self, stream: str, data: bytes) -> None:
        """Bytes came from a backend; those that were on their way when the device failed wait here."""
        if self.device.streams[stream].receive is None:
            return
        if self.held:
            self.miss("receive", stream, data)
        elif self.failure is None:
            self.feed(None, "receive", stream, data)
        elif self.origin.returns(self):
            self.miss("receive", stream, data)

    def room(self, stream: str) -> int | None:
        """Bytes of a stream that the device takes now; None is any number.

        In quarantine none: they stay in the backend until it serves again, or is given up.
        """
        if self.held:
            return 0
        if self.failure is not None:
            return 0 if self.origin.returns(self) else None
        if self.device.streams[stream].capacity is None:
            return None
        room: int | None = self.guarded(self.inputs["room"], None, self.device, stream)
        return room

    def reply(self, service: str, number: int, data: bytes) -> None:
        """A service answered a request."""
        self._answered("reply", service, number, data)

    def fail(self, service: str, number: int, reason: str) -> None:
        """A service will not answer a request."""
        self._answered("fail", service, number, reason)

    def _answered(self, kind: str, service: str, number: int, answer: object) -> None:
        if self.failure is None and not self.held:
            self.feed(None, kind, service, number, answer)
        else:
            self.miss(kind, service, number, answer)

    def miss(self, kind: str, *arguments: object) -> None:
        """Keep an input until the device serves again."""
        if len(self.missed) < MAX_MISSED:
            self.missed.append((kind, arguments))

    def miss_doorbell(self, region: str, offset: int, size: int, value: int) -> None:
        """Keep what is written in quarantine if it is a whole doorbell; the last one counts."""
        if not self.rings(region, offset, size) or not self.origin.returns(self):
            return
        place = (region, offset, size)
        self.missed[:] = [one for one in self.missed if one[0] != "write" or one[1][:3] != place]
        self.miss("write", *place, value)

    def rings(self, region: str, offset: int, size: int) -> bool:
        """Whether a write there is to a whole doorbell."""
        answerer = self.device.answerers[region]
        if not isinstance(answerer, RegisterAnswerer):
            return False
        found = answerer.candidates(offset, WRITE)
        return (
            len(found) == 1 and isinstance(found[0], Register) and found[0].doorbell and found[0].size == size
        )

    @property
    def by_chance(self) -> bool:
        """Whether its last failure may not have been the input's doing, which has no lasting effect then."""
        return self.late and not self.journal.said

    def due_again(self) -> Input | None:
        """What the device is to have of the input that failed, once it serves.

        A reset as it is, and what nobody waits for once more if chance had a hand in it.  What else
        it fails at, or a second time, does not come again: of an answer it learns that there is none.
        """
        refused = self.journal.refused
        if refused is None or refused[0] == "reset":
            return refused
        kind, arguments = refused
        if kind == "write" and self.by_chance and refused != self.repeated and self.rings(*arguments[:3]):  # type: ignore[arg-type]
            self.repeated = refused
            return refused
        if kind in UNANSWERED and self.by_chance and refused != self.repeated:
            self.repeated = refused
            return again(self.device, kind, arguments)
        if kind == "reply" and arguments[0] in self.device.clients:
            return "fail", (*arguments[:2], FAILED_AT)
        return None

    def acknowledge(self, line: str) -> int | None:
        """A vCPU took the interrupt of an output line: the vector; None if there is none."""
        declared = self.device.outputs[line]
        hook = declared.acknowledge if isinstance(declared, IrqOutput) else None
        if self.failure is not None or hook is None:
            return None
        vector: int | None = self.feed(None, "acknowledge", line)
        return vector
