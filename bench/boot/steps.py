"""How many accesses of a boot wait for an answer, step by step.

Of the devices that we have, one machine takes all accesses, and what it publishes at that moment
decides, as it does for a hypervisor; of others a table (`bench.boot.policy`).

What the trace does not have is time: no time is taken to pass between two accesses, so that a
published read which has to wait for posted writes always waits.  So the counts with program
order are the most that there can be; those of `NAIVE` are the least.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, field, frozen

from bench.boot.ours import Ours
from bench.boot.policy import CONFIG, IN_KERNEL, NO_RULE, Rule, rule_for
from bench.boot.trace import Access
from mmiod.vmm.published import Way


@frozen
class Step:
    """What is had of posted writes and published registers."""

    name: str
    posted: bool = False
    published: bool = False
    config: bool = False
    ordered: bool = True


ALL_WAIT: Final = Step("all wait")
STEPS: Final = (
    ALL_WAIT,
    Step("posted", posted=True),
    Step("posted, published", posted=True, published=True),
    Step("posted, published, config space", posted=True, published=True, config=True),
)
BEST: Final = STEPS[-1]
NAIVE: Final = Step(
    "naive bound: every write posted, no order", posted=True, published=True, config=True, ordered=False
)


@define
class Counts:
    """Of one boot by one step."""

    trips: int = 0
    """Accesses that wait for their answer."""
    waits: int = 0
    """Published reads that wait for posted writes."""
    posts: int = 0
    loads: int = 0
    """Reads of the shared page, or of what the hypervisor has itself."""

    @property
    def accesses(self) -> int:
        """All of them."""
        return self.trips + self.waits + self.posts + self.loads

    def stall_us(self, trip: float, post: float, load: float) -> float:
        """What the vCPU waits, if each costs so much."""
        return (self.trips + self.waits) * trip + self.posts * post + self.loads * load


@define
class Walk:
    """One boot by one step: what is on its way to the daemon, and what registers hold."""

    step: Step
    ours: Ours = field(factory=Ours)
    counts: Counts = field(factory=Counts)
    undrained: set[str] = field(factory=set)
    """Devices of the table that have posted writes."""

    def take(self, access: Access) -> bool:
        """Count one; whether the shared page served it."""
        rule = rule_for(access.region)
        if rule is None and self.ours.answers(access):
            return self._write(access) if access.write else self._read(access)
        return self._by_rule(access, rule or NO_RULE)

    # --- ours ------------------------------------------------------------------------------

    def _write(self, access: Access) -> bool:
        if not self.step.ordered:
            self.ours.ask(access)
            self.counts.posts += 1
            return False
        way, written = self.ours.way(access)
        if way is Way.SEND and self.step.posted and not self.ours.drained:
            self.ours.drain()
            way, written = self.ours.way(access)
            self.counts.waits += way is not Way.SEND
        if way is Way.SEND or not self.step.posted:
            self._trip(access)
        elif way is Way.POST:
            self.ours.post(written)
            self.counts.posts += 1
        else:
            self.counts.loads += 1
        return False

    def _read(self, access: Access) -> bool:
        if not (self.step.config if access.region in CONFIG else self.step.published):
            self._trip(access)
            return False
        served = self.ours.published(access) is not None
        self.counts.loads += served
        if not served and not self.ours.drained:
            self._drain()
            served = self.ours.published(access) is not None
            self.counts.waits += served
        if not served:
            self._trip(access)
        return served

    # --- by the table ------------------------------------------------------------------------

    def _by_rule(self, access: Access, rule: Rule) -> bool:
        if access.write and (rule.posted or not self.step.ordered) and self.step.posted:
            self.counts.posts += 1
            self.undrained.add(rule.device)
        elif access.write or not (rule.published and self.step.published):
            self._trip()
        elif self.step.ordered and rule.device in self.undrained:
            self.counts.waits += 1
            self._drain()
            return True
        else:
            self.counts.loads += 1
            return True
        return False

    def _trip(self, access: Access | None = None) -> None:
        self.counts.trips += 1
        self._drain()
        if access is not None:
            self.ours.ask(access)

    def _drain(self) -> None:
        """One ring: what is before has been done as well."""
        self.ours.drain()
        self.undrained.clear()


def exits(accesses: Iterable[Access]) -> list[Access]:
    """Those that KVM does not answer itself."""
    return [access for access in accesses if access.region not in IN_KERNEL]


def count(accesses: Iterable[Access], step: Step) -> Counts:
    """All of a boot."""
    walk = Walk(step)
    for access in accesses:
        walk.take(access)
    walk.ours.close()
    return walk.counts
