"""`Break` and `Continue`: what a client of the control socket is told, and what it may ask."""

from __future__ import annotations

import threading

import pytest
import trio

from mmiod.control import messages
from mmiod.control.breaks import Breaking, break_, continue_
from mmiod.control.messages import Broken, Over
from mmiod.control.varlink import Failure
from mmiod.core.pump import Pump
from mmiod.machine.stop import MAX_NEWS
from mmiod.values import READ, WRITE, DecodedExit, Space
from tests.control.small_daemon import SmallDaemon

LCR, LSR, BROKEN = 0x3FB, 0x3FD, 0x3FF


class Replies:
    """Where completions go."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.came = trio.Event()

    def send(self, data: bytes) -> None:
        """Keep it."""
        self.got.append(data)
        self.came.set()


@pytest.fixture
def daemon() -> SmallDaemon:
    """A daemon whose vm0 has a session of two vCPUs."""
    daemon = SmallDaemon()
    daemon.attach("vm0", Pump(threading.Event()))
    return daemon


def send(daemon: SmallDaemon, port: int, sequence: int, value: int | None = None, vcpu: int = 0) -> Replies:
    """An exit of one byte: a write of `value`, or a read."""
    replies = Replies()
    direction, data = (READ, b"") if value is None else (WRITE, bytes([value]))
    exit_ = DecodedExit(vcpu, sequence, Space.PIO, direction, port, 1, data=data)
    daemon.sessions["vm0"].ledger.admit(vcpu, sequence, bytes([sequence % 256]))
    daemon.sessions["vm0"].exit(exit_, 0, replies)
    return replies


def begin(daemon: SmallDaemon, **wanted: object) -> Breaking:
    """A break, introduced."""
    stream = break_(daemon, messages.BreakRequest("uart0", "vm0", **wanted))  # type: ignore[arg-type]
    assert 1 == len(stream())
    return stream


def test_it_begins_with_what_it_covers(daemon: SmallDaemon) -> None:
    """In words, with the time after which a stop ends, and whether registers were published."""
    machine = daemon.machines["vm0"]
    machine.publish(memoryview(bytearray(1 << 18)).cast("Q"))
    assert machine.page is not None
    machine.page.go()

    (first,) = break_(daemon, messages.BreakRequest("uart0", "vm0", "l?r", "write", 0x83, 500))()
    (second,) = break_(daemon, messages.BreakRequest("slow", "vm0"))()

    assert Broken(None, None, 0, "writes of vm0/uart0.l?r with 0x83", 500, withdrawn=True) == first
    assert Broken(None, None, 0, "accesses of vm0/slow", 30_000, withdrawn=False) == second
    assert not machine.page.shelves["uart0"].open


def test_a_device_that_is_out_of_service_says_so_and_shows_what_it_reads(daemon: SmallDaemon) -> None:
    """Ones, by which a break may ask; none of its registers is met."""
    host = daemon.machines["vm0"].hosts["uart0"]
    host.quarantine(ValueError("bad bits"))
    out = "which is out of service (ValueError: bad bits): it has no registers and reads ones"

    named, asked, other = (
        break_(daemon, messages.BreakRequest("uart0", "vm0", register, None, value))
        for register, value in (("lcr", None), (None, 0xFF), (None, 0x83))
    )
    assert [f"accesses of vm0/uart0 with 0xff, {out}"] == [first.covers for first in asked()]
    assert 1 == len(named()) == len(other())
    send(daemon, LCR, 1)

    (told,) = asked()
    assert told.stop is not None
    assert (0xFF, None) == (told.stop.value, told.stop.register)
    assert [] == named() == other()


def test_a_stop_has_names(daemon: SmallDaemon) -> None:
    """Register, fields, place, vCPU; of a read what it would give, without doing it."""
    stream = begin(daemon)
    write = send(daemon, LCR, 1, 0x83)
    read = send(daemon, LSR, 1, vcpu=1)

    stops = [reply.stop for reply in stream()]

    assert [] == write.got + read.got
    assert [
        messages.Stop(
            1, "vm0", 0, 1, "pio", "write", LCR, 1, 0x83, "uart0", 1, "main", 3, "lcr",
            {"WLS": 3, "STB": 0, "DLAB": 1}, None,
        ),
        messages.Stop(2, "vm0", 1, 1, "pio", "read", LSR, 1, 0x61, "uart0", 1, "main", 5, "lsr", {}, None),
    ] == stops  # fmt: skip
    assert 0x61 == daemon.machines["vm0"].hosts["uart0"].device.values["lsr"]  # a read clears it


def test_value_that_cannot_be_known(daemon: SmallDaemon) -> None:
    """A getter that fails is nobody's fault: the read stands, and the device serves."""
    stream = begin(daemon)
    send(daemon, BROKEN, 1)
    (reply,) = stream()
    assert reply.stop is not None
    assert ("broken", None) == (reply.stop.register, reply.stop.value)
    assert daemon.machines["vm0"].hosts["uart0"].serves


def test_continue_ends_one_or_all(daemon: SmallDaemon) -> None:
    """By number, or whatever stands at the device; the answer has their numbers."""
    stream = begin(daemon)
    replies = [send(daemon, LSR, 1, vcpu=vcpu) for vcpu in (0, 1)]
    stream()

    assert [2] == continue_(daemon, messages.ContinueRequest("uart0", "vm0", number=2)).numbers
    assert [0, 1] == [len(one.got) for one in replies]
    assert [1] == continue_(daemon, messages.ContinueRequest("uart0", "vm0", value=0x77)).numbers
    assert [1, 1] == [len(one.got) for one in replies]
    assert [Over(2, "continued", None), Over(1, "answered", 0x77)] == [reply.over for reply in stream()]


def test_closing_lets_go(daemon: SmallDaemon) -> None:
    """A client that goes away leaves nothing standing, and nothing withdrawn."""
    stream = begin(daemon)
    replies = send(daemon, LSR, 1)
    assert [] == replies.got
    stream.close()
    assert 1 == len(replies.got)
    assert {} == daemon.machines["vm0"].withheld
    assert 1 == len(send(daemon, LSR, 2).got)


def test_news_are_bounded(daemon: SmallDaemon) -> None:
    """Of a client that does not read the oldest are lost, and counted."""
    stream = begin(daemon)
    for sequence in range(1, MAX_NEWS + 1):
        send(daemon, LCR, sequence, 3)
        continue_(daemon, messages.ContinueRequest("uart0", "vm0"))
    replies = stream()
    assert MAX_NEWS == len(replies)
    assert MAX_NEWS == sum(reply.lost for reply in replies)
    assert not stream.behind


def failure_of(action: object, *arguments: object) -> tuple[str, dict[str, object]]:
    """How a command fails."""
    with pytest.raises(Failure) as caught:
        action(*arguments)  # type: ignore[operator]
    return caught.value.error, dict(caught.value.parameters)


@pytest.mark.parametrize(
    ("request_", "error", "parameters"),
    [
        (("nic", "vm0"), "UnknownDevice", {"device": "nic", "known": ["vm0/uart0", "vm0/slow"]}),
        (("uart0",), "AmbiguousDevice", {"device": "uart0", "candidates": ["vm0/uart0", "vm1/uart0"]}),
        (
            ("uart0", "vm0", "mcr"),
            "UnknownRegister",
            {"device": "vm0/uart0", "register": "mcr", "known": ["rbr", "lcr", "lsr", "broken"]},
        ),
        (("uart0", "vm0", None, "both"), "InvalidParameter", {"parameter": "direction"}),
        (("uart0", "vm0", None, None, None, 0), "InvalidParameter", {"parameter": "timeout_ms"}),
        (("uart0", "vm0", None, None, None, 600_001), "InvalidParameter", {"parameter": "timeout_ms"}),
    ],
)
def test_what_is_wrong_is_named(
    daemon: SmallDaemon, request_: tuple[str, ...], error: str, parameters: dict[str, object]
) -> None:
    """And nothing stops."""
    found, told = failure_of(break_, daemon, messages.BreakRequest(*request_))  # type: ignore[arg-type]
    assert (error, parameters) == (found.rpartition(".")[2], told)
    assert {} == daemon.machines["vm0"].breaks.wishes


def test_answers_that_do_not_fit(daemon: SmallDaemon) -> None:
    """A value of more than the access's bytes, and a device at which nothing stands."""
    begin(daemon)
    asked = messages.ContinueRequest("uart0", "vm0", value=0x100)
    assert ("io.mmiod.NotStopped", {"device": "vm0/uart0"}) == failure_of(continue_, daemon, asked)
    replies = send(daemon, LSR, 1)
    error, parameters = failure_of(continue_, daemon, asked)
    assert ("org.varlink.service.InvalidParameter", {"parameter": "value"}) == (error, parameters)
    assert [] == replies.got
