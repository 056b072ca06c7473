"""How many accesses of a boot wait for an answer, step by step.

What the trace does not have is time: no time is taken to pass between two accesses, so that a
published read which has to wait for posted writes always waits.  So the counts with program
order are the most that there can be; those of `NAIVE` are the least.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, field, frozen

from bench.boot.policy import IN_KERNEL, Rule, rule_for
from bench.boot.trace import Access


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
    counts: Counts = field(factory=Counts)
    values: dict[int, int] = field(factory=dict)
    undrained: dict[str, set[int]] = field(factory=dict)
    """Addresses of posted writes, by device."""

    def take(self, access: Access) -> bool:
        """Count one; whether the shared page served it."""
        rule = rule_for(access.region, access.address)
        served = False
        if access.write:
            self._write(access, rule)
        elif self._published(rule):
            served = True
            self._load(rule)
        else:
            self._trip()
        if access.write or access.address not in self.values:
            self.values[access.address] = access.value
        return served

    def _write(self, access: Access, rule: Rule) -> None:
        step = self.step
        if (
            rule.config and step.config and rule.posted(self.values)
        ):  # the address: it never leaves the hypervisor
            self.counts.loads += 1
        elif step.posted and (not step.ordered or rule.posted(self.values)):
            self.counts.posts += 1
            self.undrained.setdefault(rule.device, set()).add(access.address)
        else:
            self._trip()

    def _published(self, rule: Rule) -> bool:
        wanted = self.step.config if rule.config else self.step.published
        return wanted and rule.published(self.values)

    def _load(self, rule: Rule) -> None:
        before = self.undrained.get(rule.device, set())
        if self.step.ordered and any(address not in rule.unaffected_by for address in before):
            self.counts.waits += 1
            self.undrained.clear()  # one ring: what is before has been done as well
        else:
            self.counts.loads += 1

    def _trip(self) -> None:
        self.counts.trips += 1
        self.undrained.clear()


def exits(accesses: Iterable[Access]) -> list[Access]:
    """Those that KVM does not answer itself."""
    return [access for access in accesses if access.region not in IN_KERNEL]


def count(accesses: Iterable[Access], step: Step) -> Counts:
    """All of a boot."""
    walk = Walk(step)
    for access in accesses:
        walk.take(access)
    return walk.counts
