"""Every bundled device keeps the contract; what does not is found out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import define, field

from mmiod.device import PENDING, Device, Pending, Register, Requests, Timer
from mmiod.device.declarations import Effect
from mmiod.testing import contract
from mmiod.testing.subject import Answer, Broken
from mmiod.testing.suite import PROMISES, Terms, load, weight
from mmiod.values import WRITE
from tests.devices import subjects


@pytest.fixture(scope="module", params=subjects.PLUGINS, ids=lambda path: path.stem)
def terms(request: pytest.FixtureRequest) -> Terms:
    """A bundled device."""
    path: Path = request.param
    return subjects.terms(path)


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_bundled_device_keeps(terms: Terms, promise: Callable[[Terms], None]) -> None:
    """The promise, under accesses, time, lines, bytes and resets in random order."""
    promise(terms)


@pytest.mark.parametrize("name", subjects.SERVICES)
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_device_keeps_without_its_backend(name: str, promise: Callable[[Terms], None]) -> None:
    """The same where every request fails."""
    (path,) = (path for path in subjects.PLUGINS if path.stem == name)
    promise(Terms(load(path)))


test_by_class = contract(load(subjects.ROOT / "pseudo" / "pvpanic.py"))
test_by_file = contract(subjects.ROOT / "pseudo" / "debugcon.py", accesses=1000)


# --- what breaks a promise ------------------------------------------------------------------


@define
class Kept:
    """Something to break a promise with."""

    seen: list[int] = field(factory=list)


class Plain(Device):
    """Two registers and nothing wrong."""

    length = 8
    state: Kept
    control = Register(0, size=4)
    status = Register(4, size=4, access="r")
    hidden: list[int]

    def on_reset(self) -> None:
        """Nothing is kept."""
        self.hidden = []

    @control.on_write
    def written(self, value: int) -> None:
        """Nothing more than what is stored."""

    @status.value
    def derived(self) -> int:
        """What the other register says."""
        return self.control & 0xFF


class Raises(Plain):
    """Fails at one value."""

    def written(self, value: int) -> None:
        """Fail."""
        assert value != 0xFFFF_FFFF


class Grows(Plain):
    """Keeps every write, where no state is looked for."""

    def written(self, value: int) -> None:
        """Keep it."""
        self.hidden.append(value)


class Peeks(Plain):
    """Its derived value counts how often it was asked."""

    def derived(self) -> int:
        """Count."""
        self.state.seen[:] = [sum(self.state.seen) + 1]
        return 0


class Misfits(Plain):
    """A derived value that is too large, now and then."""

    def derived(self) -> int:
        """Too large where the topmost bit is set, and no guest has looked yet."""
        return self.control << 1


class Remembers(Plain):
    """Behaves by something that is not saved."""

    def written(self, value: int) -> None:
        """Keep it."""
        self.hidden[:] = [value]

    def derived(self) -> int:
        """What was kept."""
        return self.hidden[0] & 0xF if self.hidden else 0


class Survives(Plain):
    """A reset leaves something that is not declared so."""

    def on_reset(self) -> None:
        """Keep what is there already."""
        self.hidden = getattr(self, "hidden", [])
        self.control = self.hidden[0] if self.hidden else 0

    def written(self, value: int) -> None:
        """Keep it."""
        self.hidden[:] = [value]


class Varies(Plain):
    """Answers what no input says."""

    def derived(self) -> int:
        """Where in memory it is."""
        return id(self) >> 4 & 0xFFFF


class Swallows(Device):
    """Its batch is not what its accesses are."""

    length = 1
    data = Register(0)

    @data.on_write_batch
    def _written(self, data: bytes) -> None:
        self.data = data[0]


class NeverCompletes(Device):
    """Owes for ever."""

    length = 1
    data = Register(0)

    @data.on_read
    def _read(self) -> Pending:
        return PENDING


@pytest.mark.parametrize(
    ("plugin", "promise", "reason"),
    [
        (Raises, "answers_every_access", "device failed at .*WRITE: 1>, 4294967295.*AssertionError"),
        (Grows, "does_not_grow", "accesses let the device's bytes grow by"),
        (Peeks, "is_inspected_without_effect", ""),
        (Misfits, "answers_every_access", "device failed at .*: a read of . bytes was answered by"),
        (Remembers, "is_restored_as_saved", "is answered otherwise after a restore"),
        (Survives, "is_reset", ""),
        (Varies, "is_deterministic", ""),
        (Swallows, "does_as_many_at_once", r"main\+0x0"),
        (NeverCompletes, "answers_every_access", "PENDING: .* is never completed"),
    ],
)
def test_broken_promise_is_found(plugin: type[Device], promise: str, reason: str) -> None:
    """Each promise is broken by a device that keeps the others, and the message says how."""
    checks = {check.__name__: check for check in PROMISES}
    for name in checks.keys() - {promise} if plugin in {Grows, Survives} else ():
        checks[name](Terms(plugin))
    with pytest.raises(AssertionError, match=reason or None):
        checks[promise](Terms(plugin))


def test_plain_device_keeps_all() -> None:
    """What the broken ones are made from is right."""
    for promise in PROMISES:
        promise(Terms(Plain))


class Slow(Device):
    """Answers when its service has, or a timer."""

    length = 1
    data = Register(0, access="r")
    service = Requests({"get": Effect.IDEMPOTENT})
    tick = Timer()

    @data.on_read
    def _read(self) -> Pending:
        self.service.send("get")
        return PENDING

    @service.on_reply
    def _replied(self, _number: int, data: bytes) -> None:
        self.complete(data[0])

    @service.on_failure
    def _failed(self, _number: int, _reason: str) -> None:
        self.tick.set(self.clock.now_ns + 1000)

    @tick.on_fire
    def _late(self) -> None:
        self.complete(0xFF)


@pytest.mark.parametrize("services", [{}, {"service": lambda _kind, _data: b"!"}])
def test_pending_accesses_are_waited_for(services: dict[str, Answer]) -> None:
    """An access that the device owes is completed by replies, failures and timers."""
    for promise in PROMISES:
        promise(Terms(Slow, services=services))


def test_an_error_in_a_hook_is_the_cause() -> None:
    """What a plugin raised is there with its traceback."""
    with pytest.raises(Broken) as found:
        PROMISES[0](Terms(Raises))
    assert isinstance(found.value.__cause__, AssertionError)


def test_weight_counts_what_is_kept() -> None:
    """A list that a device holds outside of its state counts, with its elements."""
    subject = Terms(Grows).subject()
    before = weight(subject.device)
    for number in range(1000):
        subject.access("main", 0, 4, WRITE, 1000 + number)
    assert 8 * 1000 + 28 * 1000 <= weight(subject.device) - before < 50_000
