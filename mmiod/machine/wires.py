"""Which line drives which: `uart0.irq` -> `pic.ir4`, `pic.intr` -> `vcpu0.intr`.

A sink is an input line of a device, the interrupt request of a vCPU (`vcpu0.intr`) or
a line of an interrupt controller in the hypervisor (`hypervisor.4`).  What drives one
sink is OR-ed, but for a vCPU's: one controller answers its INTA.  A line may drive several
sinks.  `piix3.irq*` -> `pic.ir*` wires equal numbers to each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from attrs import define, field

from mmiod.errors import MachineError
from mmiod.machine.description import Sinks

Deliver = Callable[[bool], None]

_VCPU: Final = re.compile(r"vcpu(\d+)\.intr")
_HYPERVISOR: Final = re.compile(r"hypervisor\.(\d+)")


@define(eq=False)
class Net:
    """One sink and the sources that hold it high now."""

    sink: str
    deliver: Deliver
    high: set[str] = field(factory=set)

    def drive(self, source: str, level: bool) -> None:
        """A source changed; the sink hears of it only if the OR changes."""
        before = bool(self.high)
        if level:
            self.high.add(source)
        else:
            self.high.discard(source)
        if bool(self.high) != before:
            self.deliver(level)


@define(eq=False)
class Wires:
    """All nets of a VM, by source."""

    nets: dict[str, list[Net]] = field(factory=dict)
    sinks: dict[str, Net] = field(factory=dict)

    def connect(self, source: str, sink: str, deliver: Deliver) -> None:
        """Wire one source to one sink."""
        net = self.sinks.setdefault(sink, Net(sink, deliver))
        self.nets.setdefault(source, []).append(net)

    def drive(self, source: str, level: bool) -> None:
        """A source changed its level."""
        for net in self.nets.get(source, ()):
            net.drive(source, level)

    def restore(self, high: set[str]) -> None:
        """These sources are high, all others low; nobody hears of it: inputs are restored, too."""
        for net in self.sinks.values():
            net.high.clear()
        for source in high:
            for net in self.nets.get(source, ()):
                net.high.add(source)


def expand(wires: Mapping[str, Sinks], sources: Iterable[str], sinks: Iterable[str]) -> list[tuple[str, str]]:
    """Write `a.irq* -> b.ir*` and several sinks out: all pairs of a source and a sink.

    Raises:
        MachineError: one side does not exist, and each problem lists what its device has; or
            a vCPU has two controllers.
    """
    known_sources, known_sinks = list(sources), set(sinks)
    pairs: list[tuple[str, str]] = []
    problems: list[str] = []
    for source, sink in _pairs(wires):
        if source.endswith("*") and sink.endswith("*"):
            numbered = _numbered(source, sink, known_sources, known_sinks)
            if not numbered:
                problems.append(f"wire {source} -> {sink}: no line of equal number on both sides")
            pairs += numbered
        else:
            pairs.append((source, sink))
    for source, sink in pairs:
        if source not in known_sources:
            problems.append(
                f"wire {source} -> {sink}: no output {source}; there is {_like(source, known_sources)}"
            )
        if sink not in known_sinks and vcpu_of(sink) is None and hypervisor_line_of(sink) is None:
            problems.append(f"wire {source} -> {sink}: no input {sink}; there is {_like(sink, known_sinks)}")
    problems += _contested(pairs)
    if problems:
        raise MachineError(*problems)
    return pairs


def _pairs(wires: Mapping[str, Sinks]) -> Iterator[tuple[str, str]]:
    for source, sinks in wires.items():
        for sink in (sinks,) if isinstance(sinks, str) else sinks:
            yield source, sink


def _contested(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Two controllers of one vCPU: which of them would answer INTA?"""
    controllers: dict[str, str] = {}
    for source, sink in pairs:
        if vcpu_of(sink) is not None and controllers.setdefault(sink, source) != source:
            yield f"wire {source} -> {sink}: {controllers[sink]} drives it, and one controller answers INTA"


def _numbered(source: str, sink: str, sources: Iterable[str], sinks: set[str]) -> list[tuple[str, str]]:
    prefix = source[:-1]
    pairs = []
    for name in sources:
        number = name.removeprefix(prefix)
        other = sink[:-1] + number
        if (
            name.startswith(prefix)
            and number.isdecimal()
            and (other in sinks or hypervisor_line_of(other) is not None)
        ):
            pairs.append((name, other))
    return pairs


def _like(name: str, known: Iterable[str]) -> str:
    device = name.partition(".")[0]
    return ", ".join(sorted(other for other in known if other.startswith(device + "."))) or "no such device"


def vcpu_of(sink: str) -> int | None:
    """The vCPU whose interrupt request a sink is."""
    found = _VCPU.fullmatch(sink)
    return int(found[1]) if found else None


def hypervisor_line_of(sink: str) -> int | None:
    """The hypervisor's line that a sink is."""
    found = _HYPERVISOR.fullmatch(sink)
    return int(found[1]) if found else None
