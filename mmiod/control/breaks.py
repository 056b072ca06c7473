"""`Break` and `Continue`: accesses that stand until a client lets them go on.

A break lasts as long as its call: a client that goes away lets everything go on.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from attrs import define

from mmiod.control import messages
from mmiod.control.daemon import Daemon
from mmiod.control.interface import fail
from mmiod.control.meant import NAME, one_device
from mmiod.control.messages import Broken, Over, Stop
from mmiod.control.varlink import SERVICE, Failure
from mmiod.machine.breaks import LONGEST_NS
from mmiod.machine.machine import Machine
from mmiod.machine.stop import TIMEOUT_NS, Break, Stop as Standing, names
from mmiod.trace import decode
from mmiod.values import READ, WRITE, ones

NS_PER_MS: Final = 1_000_000
DIRECTIONS: Final = {"read": READ, "write": WRITE}
DEFAULT_MS: Final = TIMEOUT_NS // NS_PER_MS


@define(eq=False)
class Breaking:
    """One client's break; call it for what is due."""

    daemon: Daemon
    machine: Machine
    wish: Break
    _withdrawn: bool | None = None
    """What the first reply says; None: it was given."""

    @classmethod
    def begin(cls, daemon: Daemon, machine: Machine, wish: Break) -> Breaking:
        """From now on accesses stop."""
        return cls(daemon, machine, wish, machine.breaks.add(wish))

    def __call__(self) -> list[Broken]:
        """All that is new; first of all what the break covers."""
        replies: list[Broken] = []
        if self._withdrawn is not None:
            withdrawn, self._withdrawn = self._withdrawn, None
            replies.append(Broken(None, None, 0, self._covers, self.wish.timeout_ns // NS_PER_MS, withdrawn))
        while self.wish.news:
            lost, self.wish.lost = self.wish.lost, 0
            news = self.wish.news.popleft()
            if isinstance(news, Standing):
                replies.append(Broken(self._stop(news), None, lost))
            else:
                replies.append(Broken(None, Over(news.number, news.how, news.value), lost))
        return replies

    async def ready(self) -> None:
        """Wait until hypervisors have nothing of the device: pages, doorbells."""
        await self.daemon.withdrawn()

    @property
    def behind(self) -> bool:
        """Whether there is more to tell already."""
        return bool(self.wish.news)

    def close(self) -> None:
        """What stands for this break alone goes on."""
        self.daemon.work(partial(self.machine.breaks.remove, self.wish))
        self.daemon.settle(self.machine.name)

    @property
    def _covers(self) -> str:
        wish = self.wish
        kind = "accesses" if wish.direction is None else f"{wish.direction.name.lower()}s"
        where = f"{self.machine.name}/{wish.device}" + (f".{wish.register}" if wish.register else "")
        value = f" with {wish.value:#x}" if wish.value is not None else ""
        failure = self.machine.hosts[wish.device].failure
        out = f", which is out of service ({failure}): it has no registers and reads ones" if failure else ""
        return f"{kind} of {where}{value}{out}"

    def _stop(self, stop: Standing) -> Stop:
        return Stop(
            stop.number,
            self.machine.name,
            stop.vcpu,
            stop.sequence,
            stop.spot.space.name.lower(),
            stop.direction.name.lower(),
            stop.spot.address,
            stop.size,
            stop.value,
            stop.name,
            stop.generation,
            stop.spot.region,
            stop.spot.offset,
            stop.register or None,
            self._fields(stop),
            stop.pc if stop.pc >= 0 else None,
        )

    def _fields(self, stop: Standing) -> dict[str, int]:
        device = self.machine.hosts[stop.name].device
        declared, region = device.declared.get(stop.register), device.regions.get(stop.spot.region)
        if declared is None or region is None or stop.value is None:
            return {}
        return decode(declared, stop.spot.offset % (region.stride or region.length), stop.size, stop.value)


def break_(daemon: Daemon, request: messages.BreakRequest) -> Breaking:
    """Accesses to a device stop before anything of them was done, as long as this call lasts.

    Each waits until somebody calls Continue, or its time is over.
    """
    machine, host = one_device(daemon, request)
    known = [*host.device.declared, *host.device.fifos]
    if request.register is not None and not any(names(request.register, name) for name in known):
        raise fail(NAME, messages.UnknownRegister(f"{machine.name}/{host.name}", request.register, known))
    direction = DIRECTIONS.get(request.direction or "")
    timeout_ms = DEFAULT_MS if request.timeout_ms is None else request.timeout_ms
    if request.direction is not None and direction is None:
        raise Failure(f"{SERVICE}.InvalidParameter", parameter="direction")
    if not 0 < timeout_ms * NS_PER_MS <= LONGEST_NS:
        raise Failure(f"{SERVICE}.InvalidParameter", parameter="timeout_ms")
    wish = Break(host.name, request.register, direction, request.value, timeout_ms * NS_PER_MS)
    return Breaking.begin(daemon, machine, wish)


def continue_(daemon: Daemon, request: messages.ContinueRequest) -> messages.Continued:
    """Let accesses go on that stand at a device, or answer them in its place."""
    machine, host = one_device(daemon, request)
    standing = [
        stop
        for stop in machine.breaks.stops
        if stop.name == host.name and request.number in {None, stop.number}
    ]
    if not standing:
        raise fail(NAME, messages.NotStopped(f"{machine.name}/{host.name}"))
    value = request.value
    if value is not None and not 0 <= value <= min(ones(stop.size) for stop in standing):
        raise Failure(f"{SERVICE}.InvalidParameter", parameter="value")
    for stop in standing:
        machine.breaks.end(stop, "continued" if value is None else "answered", value)
    daemon.settle(machine.name)
    return messages.Continued([stop.number for stop in standing])
