"""A device alone in a machine, and random inputs for it: what the contract is checked on.

Everything that the device does to the outside goes into one running `digest`, so that two
runs are compared without keeping them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final

from attrs import define, field

from mmiod.device import Device, Pending, Request
from mmiod.machine.address_map import Stretch
from mmiod.machine.clock import MachineClock
from mmiod.machine.context import DeviceContext
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.machine.mark import Mark
from mmiod.machine.ports import BackendStatus, Keeping
from mmiod.machine.published import Page
from mmiod.machine.slot import Slot
from mmiod.machine.state import restore, save
from mmiod.machine.waist import Busy, Named, Status
from mmiod.values import READ, WRITE, Direction, ones

NAME: Final = "device"
RAM: Final = 1 << 20
"""Bytes of guest memory, from address 0."""
PATIENCE: Final = 64
"""Requests and timers that a pending access may wait for, one after the other."""
SIZES: Final = (1, 1, 2, 4, 4, 8)
OTHERS: Final = 16
"""Every so many inputs one is no access."""

Answer = Callable[[str, bytes], bytes]
"""What a service replies to a request of this kind and data."""
Input = tuple[str, tuple[Any, ...]]
"""The name of a `Subject`'s method, and its arguments."""


class Broken(AssertionError):
    """The device failed; its own error is the cause."""


@define(eq=False)
class Ram:
    """Guest memory, in this process."""

    data: bytearray = field(factory=lambda: bytearray(RAM))

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at an offset."""
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes at an offset."""
        self.data[offset : offset + len(data)] = data

    def close(self) -> None:
        """Nothing to close."""


@define(eq=False)
class Surroundings:
    """What is around the device: hypervisor, backends, log; and who hears that it failed."""

    mark: Mark = field(factory=Mark)
    digest: int = 0
    outputs: int = 0
    last: Input = ("power on", ())
    asked: list[tuple[str, int, str, bytes]] = field(factory=list)
    """Requests without an answer: service, number, kind, data."""
    page: Page | None = None
    """What is published, where a test looks at that."""
    announced: Callable[[], None] = lambda: None
    """Called when the guest is told to look."""

    def tell(self, *output: object) -> None:
        """Take an output."""
        self.outputs += 1
        self.digest = zlib.crc32(repr(output).encode(), self.digest)

    def notify(self, event: str, **fields: object) -> None:
        """Take an event."""
        self.tell(event, sorted(fields.items()))

    def record(
        self,
        host: Named,
        direction: Direction,
        size: int,
        value: int,
        register: str,
        status: Status,
        ns: int,
        count: int = 1,
    ) -> None:
        """No record is kept."""

    def quarantined(self, host: Named, reason: BaseException) -> None:
        """Say which input it was.

        Raises:
            Broken: always.
        """
        raise Broken(f"{host.name} failed at {self.last}: {type(reason).__name__}: {reason}") from reason

    def returns(self, host: Named) -> bool:  # noqa: ARG002
        """None is."""
        return False

    # --- the hypervisor

    def intr(self, vcpu: int, level: bool) -> None:  # noqa: D102
        self.announced()
        self.tell("intr", vcpu, level)

    def set_level(self, line: int, level: bool) -> None:  # noqa: D102
        self.announced()
        self.tell("level", line, level)

    def msi(self, device: str, address: int, data: int) -> None:  # noqa: D102
        self.announced()
        self.tell("msi", device, address, data)

    def request(self, kind: Request, value: int) -> None:  # noqa: D102
        self.announced()
        self.tell("request", kind.name, value)

    def map_changed(self, *_moved: Stretch) -> None:  # noqa: D102
        self.tell("map")

    def unlearn(self) -> None:  # noqa: D102
        pass


@define(eq=False)
class Port:
    """The backend of a stream or a service."""

    name: str
    around: Surroundings
    status: BackendStatus = field(factory=lambda: BackendStatus("contract"))
    keeping: Keeping | None = field(factory=lambda: Keeping("contract", 1, {}))
    kept: Mapping[str, bytes] | None = field(factory=dict)
    refusal: str | None = None

    @property
    def busy(self) -> bool:
        """Whether a request has no answer yet."""
        return any(service == self.name for service, *_ in self.around.asked)

    def put(self, data: bytes) -> None:
        """Take bytes."""
        self.around.tell(self.name, data)

    def ready(self) -> None:
        """There is nothing that waits."""
        self.around.tell(self.name, "ready")

    def ask(self, number: int, kind: str, data: bytes) -> None:
        """Take a request."""
        self.around.tell(self.name, number, kind, data)
        self.around.asked.append((self.name, number, kind, data))

    def cancel(self, number: int) -> None:
        """It is answered all the same."""
        self.around.tell(self.name, "cancel", number)

    def disown(self, last: int) -> None:
        """No request of the device is nobody's here."""

    def fetch(self) -> None:
        """It keeps nothing."""

    def put_back(self, parts: Mapping[str, bytes]) -> None:
        """It keeps nothing."""


class Subject:
    """One device, after power-on, and its machine."""

    def __init__(
        self, plugin: type[Device], config: object | None = None, services: Mapping[str, Answer] | None = None
    ) -> None:
        """Make it.

        Args:
            plugin: its class.
            config: an instance of its configuration class; the default, if left out.
            services: by name what answers requests; those of others fail.
        """
        self.services = services or {}
        self.around = Surroundings()
        clock = MachineClock(lambda: 0, lambda: 0.0)
        self.machine = Machine("contract", clock, self.around.notify, lambda _: None)
        self.machine.outlet = self.around
        self.machine.memory.add(Slot(0, 0, RAM, False, Ram()))
        device = plugin(DeviceContext(self.machine, NAME), config)
        self.host = InlineHost(NAME, plugin.__name__, device, self.around)
        self.machine.add_host(self.host)
        for name in self.device.streams:
            self.machine.backends[NAME, name] = Port(name, self.around)
        for name in self.device.services:
            self.machine.services[NAME, name] = Port(name, self.around)
        self.machine.power_on(virtual=True)

    @property
    def device(self) -> Device:
        """The device."""
        return self.host.device

    # --- inputs: each returns what the guest sees, 0 where that is nothing ---------------

    def do(self, given: Input) -> int:
        """One input."""
        self.around.last = given
        name, arguments = given
        seen: int = getattr(self, name)(*arguments)
        return seen

    def access(self, region: str, offset: int, size: int, direction: Direction, value: int) -> int:
        """An access; while the device owes its answer requests are answered and time passes."""
        answer = self.host.access(region, offset, size, direction, value)
        return self._await(answer) if isinstance(answer, Pending | Busy) else answer

    def _await(self, answer: Pending | Busy) -> int:
        settled = self.machine.settled
        for _ in range(PATIENCE):
            if settled:
                return settled.pop()[1] or 0
            if not self.reply() and not self._wait():
                break
        raise Broken(f"{answer.name}: {self.around.last} is never completed; nothing is under way")

    def _wait(self) -> bool:
        """Let the next timer fire."""
        deadlines = [deadline for deadline, *_ in self.machine.clock.armed.values()]
        return bool(deadlines) and self.machine.clock.advance_to(min(deadlines))

    def reply(self) -> int:
        """Answer the oldest request: 1, if there is one."""
        if not self.around.asked:
            return 0
        service, number, kind, data = self.around.asked.pop(0)
        if service in self.services:
            self.host.reply(service, number, self.services[service](kind, data))
        else:
            self.host.fail(service, number, "there is no backend")
        return 1

    def settle(self) -> int:
        """Answer all requests."""
        while self.reply():
            pass
        self.machine.settled.clear()
        return 0

    def wait(self, ns: int) -> int:
        """Guest time passes."""
        self.machine.clock.advance_to(self.machine.clock.now_ns + ns, PATIENCE)
        return 0

    def drive(self, line: str, level: bool) -> int:
        """An input line changes."""
        if self.device.inputs[line] != level:
            self.host.deliver(line, level)
        return 0

    def receive(self, stream: str, data: bytes) -> int:
        """Bytes come, as many as there is room for."""
        room = self.host.room(stream)
        if room is None or room > 0:
            self.host.receive(stream, data[:room])
        return 0

    def acknowledge(self, line: str) -> int:
        """INTA: the vector; 0 if the line has none."""
        vector = self.host.acknowledge(line)
        if vector is not None and not 0 <= vector <= 0xFF:
            raise Broken(f"{line}: INTA gave {vector!r}")
        return vector or 0

    def fill(self, gpa: int, data: bytes) -> int:
        """The guest writes its memory."""
        self.machine.memory.write(gpa, data)
        return 0

    def reset(self) -> int:
        """A system reset."""
        self.machine.reset()
        return 0

    # --- state

    def saved(self) -> bytes:
        """All of the state, as SAVE gives it."""
        self.settle()
        return save(self.machine)

    def restore(self, document: bytes) -> None:
        """Take a state, as RESTORE does."""
        restore(self.machine, document)

    def document(self) -> dict[str, Any]:
        """The device's part of its state, and its timers."""
        whole = json.loads(self.saved())
        return {**whole["devices"][NAME], "timers": whole["timers"]}


# --- what a hostile guest does ------------------------------------------------------------


def inputs(plugin: Device, seed: int, count: int) -> list[Input]:
    """Random inputs, the same for the same seed; most of them are accesses."""
    random = Random(seed)  # noqa: S311  # the same each time, on purpose
    places = _places(plugin)
    others = _others(plugin)
    return [
        random.choice(others)(random) if not number % OTHERS else _access(random, places)
        for number in range(1, count + 1)
    ]


def _places(device: Device) -> list[tuple[str, int, tuple[int, ...]]]:
    """Regions, their lengths and where something is in them."""
    homes: dict[str, list[int]] = {name: [0] for name in device.regions}
    for register in device.declared.values():
        region = register.region.name if register.region else next(iter(device.regions))
        homes[region].append(register.offset)
    for name, storage in device.storages.items():
        homes[device.storage_homes[name]] += [storage.offset, storage.end - 1]
    return [(name, region.length, tuple(homes[name])) for name, region in device.regions.items()]


def _access(random: Random, places: list[tuple[str, int, tuple[int, ...]]]) -> Input:
    region, length, known = random.choice(places)
    size = min(random.choice(SIZES), 1 << length.bit_length() - 1)
    offset = random.choice(known) if random.random() < 0.7 else random.randrange(length)
    offset = min(offset, length - size)
    write = random.random() < 0.5
    return "access", (region, offset, size, WRITE if write else READ, value(random, size) if write else 0)


def value(random: Random, size: int) -> int:
    """Nothing, everything, one bit, a small number, an address in RAM, or anything."""
    width = 8 * size
    candidates = (0, ones(size), 1 << random.randrange(width), random.randrange(16), random.randrange(RAM))
    return random.choice((*candidates, random.getrandbits(width))) & ones(size)


def _others(device: Device) -> list[Callable[[Random], Input]]:
    """What there is besides accesses; a reset is rare."""
    lines = [name for name in device.lines if getattr(device.outputs.get(name), "acknowledge", None)]
    found: list[Callable[[Random], Input]] = [
        lambda random: ("wait", (random.choice((1, 1000, 1_000_000, 100_000_000)),)),
        lambda random: ("wait", (random.randrange(10_000),)),
        lambda random: ("fill", (random.randrange(RAM - 64), random.randbytes(64))),
        lambda random: ("reset", ()) if not random.randrange(20) else ("wait", (1,)),
    ]
    if device.services:
        found += [lambda _: ("reply", ())] * 4
    if device.inputs:
        names = tuple(device.inputs)
        found += [lambda random: ("drive", (random.choice(names), random.random() < 0.5))] * 3
    if lines:
        found.append(lambda random: ("acknowledge", (random.choice(lines),)))
    receivers = [name for name, stream in device.streams.items() if stream.receive]
    if receivers:
        found.append(
            lambda random: ("receive", (random.choice(receivers), random.randbytes(random.randrange(40))))
        )
    return found
