"""What stands at a break, for whom, and how it ends.  See `mmiod.machine.breaks`."""

from __future__ import annotations

import fnmatch
import re
from collections import deque
from functools import partial
from typing import Final, Literal

from attrs import define, field, frozen

from mmiod.values import Direction, Space

TIMEOUT_NS: Final = 30_000_000_000
"""How long an access stands if nobody says otherwise."""
MAX_NEWS: Final = 256
"""What of a break waits to be told; older news are lost, and counted."""

How = Literal["continued", "answered", "timeout", "cleared", "paused", "reset", "dropped", "posted"]
"""Why a stop ended: the last five are that nobody breaks there any more, that the VM is to stand still,
that it was reset, that its client has gone, and that nobody waits for a posted write."""


@frozen
class Spot:
    """Where an access goes, and where the guest sees that."""

    device: str
    region: str
    offset: int
    space: Space
    address: int


@frozen
class Over:
    """A stop has ended; `value` is what somebody answered."""

    number: int
    how: How
    value: int | None


@define(eq=False)
class Stop:
    """An access that stands."""

    number: int
    """Of the machine's stops, from 1."""
    spot: Spot
    size: int
    direction: Direction
    value: int | None
    """What is written, or what a read would give as far as that can be known without one."""
    register: str
    generation: int
    vcpu: int
    """-1: the hypervisor does not tell."""
    sequence: int
    pc: int
    wanted_by: list[Break] = field(factory=list)
    deadline_ns: int = 0
    answer: int | None = None
    """What the device is not asked for; of a write anything: it is dropped."""
    ended: bool = False

    @property
    def name(self) -> str:
        """The device's, for those who tell what is waited for."""
        return self.spot.device


@define(eq=False)
class Break:
    """A wish that accesses stop."""

    device: str
    register: str | None = None
    """A name, with * and ?; None: any access."""
    direction: Direction | None = None
    value: int | None = None
    """What is written, or would be read."""
    timeout_ns: int = TIMEOUT_NS
    news: deque[Stop | Over] = field(factory=partial(deque, maxlen=MAX_NEWS))
    lost: int = 0

    def tell(self, news: Stop | Over) -> None:
        """Keep what is to be told."""
        self.lost += len(self.news) == MAX_NEWS
        self.news.append(news)

    def wants(self, stop: Stop) -> bool:
        """Whether this access is meant."""
        if self.direction is not None and self.direction != stop.direction:
            return False
        if self.register is not None and not names(self.register, stop.register):
            return False
        return self.value is None or self.value == stop.value


def names(pattern: str, register: str) -> bool:
    """Whether a register is meant."""
    return re.match(fnmatch.translate(pattern), register, re.IGNORECASE) is not None
