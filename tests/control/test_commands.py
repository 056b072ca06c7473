"""What the commands answer."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

from mmiod.control import commands, reports
from mmiod.control.messages import (
    OfVm,
    PluginRequest,
    Range,
    Register,
    RegistersRequest,
    Unsupported,
    WatchRequest,
)
from mmiod.control.traffic import SHOWN_PER_POLL
from mmiod.control.varlink import Failure
from mmiod.core.pump import Pump
from mmiod.device import Buffer, Device, Storage
from mmiod.testing import Harness
from mmiod.values import READ, DecodedExit, RawExit, Space, Unsupported as UnsupportedCompletion, VcpuState
from tests.control.small_daemon import SmallDaemon
from tests.plugins.reloading import Reloading


def test_devices_say_where_they_are_and_how() -> None:
    """Placed and unplaced regions, lines, counters, state."""
    daemon = SmallDaemon()
    daemon.access("vm0", 0x3FB, 0x83)
    daemon.access("vm0", 0x3FD)

    uart, slow = commands.list_devices(daemon, OfVm("vm0")).devices

    assert ("vm0", "uart0", "serial", 1, "serving", None) == (
        uart.vm,
        uart.name,
        uart.plugin,
        uart.generation,
        uart.state,
        uart.reason,
    )
    assert [("main", 8, "pio", 0x3F8)] == [(r.name, r.length, r.space, r.base) for r in uart.regions]
    assert ({"irq": False}, {}, 1, 1, 0) == (uart.outputs, uart.inputs, uart.reads, uart.writes, uart.errors)
    assert [("main", "mmio", 0xFED4_0000), ("window", None, None)] == [
        (r.name, r.space, r.base) for r in slow.regions
    ]
    assert ["vm0", "vm0", "vm1", "vm1"] == [
        found.vm for found in commands.list_devices(daemon, OfVm()).devices
    ]


def test_quarantine_is_visible() -> None:
    """A device out of service says why."""
    daemon = SmallDaemon()
    daemon.machines["vm0"].hosts["uart0"].quarantine(ValueError("bad bits"))

    uart = commands.list_devices(daemon, OfVm("vm0")).devices[0]

    assert ("quarantined", "ValueError: bad bits", 1) == (uart.state, uart.reason, uart.errors)


def test_map_covers_every_address_once() -> None:
    """Ranges of a space follow each other without hole or overlap, with owner or policy."""
    daemon = SmallDaemon()
    daemon.access("vm0", 0x80, 1)
    daemon.access("vm0", 0x80, 2)

    ranges = commands.get_map(daemon, OfVm("vm0")).ranges
    ports = [found for found in ranges if found.space == "pio"]

    def hole(start: int, last: int, policy: str, hits: int = 0) -> Range:
        return Range("vm0", "pio", start, last, None, None, fixed=True, policy=policy, hits=hits)

    assert [
        hole(0, 0x7F, "ones"),
        hole(0x80, 0x80, "ignore", 2),
        hole(0x81, 0x3F7, "ones"),
        Range("vm0", "pio", 0x3F8, 0x3FF, "uart0", "main", fixed=True, policy=None, hits=0),
        hole(0x400, 0xFFFF, "ones"),
    ] == ports
    assert {"mmio": (1 << 64) - 1, "pio": 0xFFFF, "pci_config": (1 << 28) - 1, "msr": (1 << 32) - 1} == {
        found.space: found.last for found in ranges
    }


def test_exits_in_flight_say_for_whom_they_wait() -> None:
    """An exit that a device holds up shows its age, address and that device."""
    daemon = SmallDaemon()
    flights = daemon.attach("vm0", Pump(threading.Event()))
    flights.exit(DecodedExit(1, 5, Space.MMIO, READ, 0xFED4_0000, 4), 0, None)  # type: ignore[arg-type]
    raw = RawExit(0, 3, VcpuState(rip=0xFFF0))
    for _ in range(2):
        flights.totals.count(raw, UnsupportedCompletion(b"\x0f\xae\x38"))

    answer = commands.list_exits(daemon, OfVm())

    (found,) = answer.exits
    assert found.age_ns > 0
    assert ("vm0", 1, 5, "decoded", "mmio", 0xFED4_0000, None, "slow") == (
        found.vm,
        found.vcpu,
        found.sequence,
        found.kind,
        found.space,
        found.address,
        found.pc,
        found.waits_for,
    )
    (totals,) = answer.totals
    assert ("vm0", {"raw": 2}, {"unsupported": 2}) == (totals.vm, totals.exits, totals.completions)
    assert [Unsupported("0f ae 38", 2)] == totals.unsupported
    assert [] == commands.list_exits(daemon, OfVm("vm1")).totals


def test_registers_are_read_without_side_effect() -> None:
    """Inspection shows value and fields, does not clear on read, and runs under the watchdog's eyes."""
    daemon = SmallDaemon()
    daemon.access("vm0", 0x3FB, 0x83)

    first = commands.read_registers(daemon, RegistersRequest("uart0", "vm0", "l?r"))
    again = commands.read_registers(daemon, RegistersRequest("uart0", "vm0", "L*"))

    assert [
        Register("lcr", "main", 3, 1, "rw", 0x83, {"WLS": 3, "STB": 0, "DLAB": 1}, None),
        Register("lsr", "main", 5, 1, "rc", 0x61, {}, None),
    ] == first.registers
    assert first == again
    assert 2 == daemon.works
    assert daemon.machines["vm0"].hosts["uart0"].statistics.reads == 0


def test_failing_getter_is_reported_and_harmless() -> None:
    """Looking at a device never takes it out of service."""
    daemon = SmallDaemon()

    (found,) = commands.read_registers(daemon, RegistersRequest("uart0", "vm0", "broken")).registers

    assert (None, {}, "RuntimeError: out of order") == (found.value, found.fields, found.error)
    assert daemon.machines["vm0"].hosts["uart0"].failure is None
    assert 0 == daemon.machines["vm0"].mark.since_ns


def test_statistics_add_up() -> None:
    """Counters per device, sums over all, and the holes that were hit."""
    daemon = SmallDaemon()
    for _ in range(3):
        daemon.access("vm0", 0x3FD)
    daemon.access("vm1", 0x3FB, 3)
    daemon.access("vm1", 0x500)

    answer = commands.get_statistics(daemon, OfVm())

    assert [("vm0", "uart0", 3, 0), ("vm0", "slow", 0, 0), ("vm1", "uart0", 0, 1), ("vm1", "slow", 0, 0)] == [
        (found.vm, found.device, found.reads, found.writes) for found in answer.devices
    ]
    assert [("vm1", 0x400, 1)] == [(found.vm, found.start, found.hits) for found in answer.unclaimed]
    assert 4 == answer.accesses
    assert answer.p50_ns is not None
    assert answer.devices[1].p50_ns is None


@pytest.mark.parametrize(
    ("latencies", "part", "low", "high"),
    [
        ([900] * 99 + [1_000_000], 0.50, 512, 1023),
        ([900] * 99 + [1_000_000], 0.99, 512, 1023),
        ([900] * 98 + [1_000_000] * 2, 0.99, 524_288, 1_048_575),
        ([0, 0, 0], 0.99, 0, 0),
        ([1], 0.5, 1, 1),
    ],
)
def test_quantile_is_in_the_right_bucket(latencies: list[int], part: float, low: int, high: int) -> None:
    """A quantile from powers of two is off by less than a factor of two."""
    buckets = [0] * 40
    for ns in latencies:
        buckets[ns.bit_length()] += 1

    found = reports.quantile(buckets, part)

    assert found is not None
    assert low <= found <= high


# --- watching ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filter_", "error", "parameters"),
    [
        ("vm==vm9", "UnknownVm", {"vm": "vm9", "known": ["vm0", "vm1"]}),
        (
            "device==uart",
            "UnknownDevice",
            {"device": "uart", "known": ["vm0/uart0", "vm0/slow", "vm1/uart0", "vm1/slow"]},
        ),
        ("vm==vm1 and device==x", "UnknownDevice", {"device": "x", "known": ["vm1/uart0", "vm1/slow"]}),
        (
            "vm==vm0 and device==UART0 and register==lc",
            "UnknownRegister",
            {"device": "vm0/uart0", "register": "lc", "known": ["broken", "lcr", "lsr", "rbr"]},
        ),
        (
            "device==u* and register==LCRR",
            "UnknownRegister",
            {"device": "each of 2 devices", "register": "LCRR", "known": ["lcr", "rbr", "lsr"]},
        ),
        (
            "register==xyz",
            "UnknownRegister",
            {"device": "each of 4 devices", "register": "xyz", "known": ["broken", "lcr", "lsr", "rbr"]},
        ),
    ],
)
def test_watch_for_a_name_that_nobody_has_is_refused(
    filter_: str, error: str, parameters: dict[str, object]
) -> None:
    """Nothing would ever come; who is called how is told, and of several devices what is near."""
    assert (f"io.mmiod.{error}", parameters) == failure_of(
        commands.watch, SmallDaemon(), WatchRequest(filter_)
    )


@pytest.mark.parametrize(
    ("filter_", "start"),
    [
        ("device==nic*", "now"),
        ("register==mc?", "now"),
        ("device!=nic and vm!=vm9 and register!=mcr", "now"),
        ("device==UART0 and register==Lcr and vm==VM0", "now"),
        ("device==n* and register==mcr", "now"),
        ("register==mcr", "oldest"),
    ],
)
def test_watch_for_what_may_come_is_begun(filter_: str, start: str) -> None:
    """A pattern, what must not be, another case; and a register that was there before a reload."""
    [first] = commands.watch(SmallDaemon(), WatchRequest(filter_, start))()
    assert f"accesses that reach mmiod with {filter_}" == first.covers


def test_watch_takes_every_name_that_a_record_can_have() -> None:
    """Not only of registers: of buffers and storage as well."""

    class Card(Device):
        """One of each."""

        length = 0x3000
        scratch = Buffer(0x100, size=0x100)
        stored = Storage(0x1000, size=0x1000)

    daemon = SmallDaemon()
    daemon.machines["vm0"].hosts["slow"].device = Harness(Card).device
    for name in ("scratch", "stored"):
        [first] = commands.watch(daemon, WatchRequest(f"device==slow and register=={name}"))()
        assert ["vm0/slow", "vm1/slow"] == first.devices


def test_watch_begins_with_what_it_covers() -> None:
    """The first reply has words and names, and no traffic."""
    daemon = SmallDaemon()

    (first,) = commands.watch(daemon, WatchRequest("device==uart* and direction==write"))()

    assert "accesses that reach mmiod with device==uart* and direction==write" == first.covers
    assert ["vm0/uart0", "vm1/uart0"] == first.devices
    assert ([], 0) == (first.accesses, first.dropped)


def test_nothing_is_published_of_what_is_watched() -> None:
    """The hypervisor asks for each access of the devices that match, until nobody watches."""
    daemon = SmallDaemon()
    machine = daemon.machines["vm0"]
    machine.publish(memoryview(bytearray(1 << 18)).cast("Q"))
    assert machine.page is not None
    machine.page.go()
    uart = machine.page.shelves["uart0"]
    watch = commands.watch(daemon, WatchRequest("device==uart*"))

    (first,) = watch()
    assert (["vm0/uart0"], False) == (first.withdrawn, uart.open)
    watch.close()
    assert uart.open


def test_watch_names_register_field_and_place() -> None:
    """An access comes with everything that a reader wants to see."""
    daemon = SmallDaemon()
    stream = commands.watch(daemon, WatchRequest("vm==vm0"))
    stream()
    daemon.access("vm0", 0x3FB, 0x83)
    daemon.access("vm1", 0x3FB, 0x83)
    daemon.access("vm0", 0x500)

    (reply,) = stream()

    written, missed = reply.accesses
    assert written.latency_ns > 0
    assert ("vm0", 0, 7, "pio", "write", 0x3FB, 1, 0x83, "ok", 0xF1234) == (
        written.vm,
        written.vcpu,
        written.sequence,
        written.space,
        written.direction,
        written.address,
        written.size,
        written.value,
        written.status,
        written.pc,
    )
    assert ("uart0", 1, "main", 3, "lcr") == (
        written.device,
        written.generation,
        written.region,
        written.offset,
        written.register,
    )
    assert {"WLS": 3, "STB": 0, "DLAB": 1} == written.fields
    assert (None, None, None, {}, "unclaimed", 0xFF) == (
        missed.device,
        missed.region,
        missed.register,
        missed.fields,
        missed.status,
        missed.value,
    )


def test_watch_counts_what_it_lost() -> None:
    """A reader that comes late gets the number of overwritten records, filter or not."""
    daemon = SmallDaemon()
    stream = commands.watch(daemon, WatchRequest("register==lcr"))
    stream()
    for _ in range(1234):
        daemon.access("vm0", 0x3FD)

    dropped = sum(reply.dropped for _ in range(10) for reply in stream())

    assert 234 == dropped
    assert not stream.behind


def test_watch_gives_all_in_small_portions() -> None:
    """One look at the ring costs the core little, and nothing is left out between two."""
    daemon = SmallDaemon()
    stream = commands.watch(daemon, WatchRequest("register==lcr"))
    stream()
    for value in range(3 * SHOWN_PER_POLL):
        daemon.access("vm0", 0x3FB, value % 256)
        daemon.access("vm0", 0x3FD)

    portions = []
    while stream.behind:
        portions += [[access.value for access in reply.accesses] for reply in stream()]

    assert [SHOWN_PER_POLL] * 3 == [len(portion) for portion in portions]
    assert [value % 256 for value in range(3 * SHOWN_PER_POLL)] == list(itertools.chain(*portions))


def test_watch_from_the_oldest() -> None:
    """`start` chooses between what comes and what is still there."""
    daemon = SmallDaemon()
    daemon.access("vm0", 0x3FD)

    now = commands.watch(daemon, WatchRequest(start="now"))
    oldest = commands.watch(daemon, WatchRequest(start="oldest"))
    now()
    oldest()

    assert [] == now()
    assert [1] == [len(reply.accesses) for reply in oldest()]


def test_moved_region_does_not_hide_the_access() -> None:
    """An access whose region has moved since is shown without place and fields."""
    daemon = SmallDaemon()
    stream = commands.watch(daemon, WatchRequest())
    stream()
    daemon.access("vm0", 0x3FB, 0x83)
    machine = daemon.machines["vm0"]
    machine.place("uart0", machine.hosts["uart0"].device.regions["main"], Space.PIO, 0x2F8)

    ((access,),) = [reply.accesses for reply in stream()]

    assert ("uart0", "lcr", None, None, {}) == (
        access.device,
        access.register,
        access.region,
        access.offset,
        access.fields,
    )


# --- refusals ----------------------------------------------------------------------------


def failure_of(call: object, *arguments: object) -> tuple[str, dict[str, object]]:
    """How a call fails."""
    assert callable(call)
    with pytest.raises(Failure) as caught:
        call(*arguments)
    return caught.value.error, caught.value.parameters


def test_refusals_name_what_is_known() -> None:
    """A wrong name is answered with the right ones."""
    daemon = SmallDaemon()

    assert ("io.mmiod.UnknownVm", {"vm": "vm9", "known": ["vm0", "vm1"]}) == failure_of(
        commands.list_devices, daemon, OfVm("vm9")
    )
    assert ("io.mmiod.UnknownDevice", {"device": "pit", "known": ["vm0/uart0", "vm0/slow"]}) == failure_of(
        commands.read_registers, daemon, RegistersRequest("pit", "vm0")
    )
    both = ["vm0/uart0", "vm1/uart0"]
    assert ("io.mmiod.AmbiguousDevice", {"device": "uart0", "candidates": both}) == failure_of(
        commands.read_registers, daemon, RegistersRequest("uart0")
    )
    assert ("org.varlink.service.InvalidParameter", {"parameter": "start"}) == failure_of(
        commands.watch, daemon, WatchRequest(start="never")
    )
    error, parameters = failure_of(commands.watch, daemon, WatchRequest("dev==x"))
    assert "io.mmiod.InvalidFilter" == error
    assert str(parameters["reason"]).startswith("'dev' is no key; a filter knows vm, ")


async def test_reload_and_rollback_tell_what_serves(tmp_path: Path) -> None:
    """Generation, devices, what would be otherwise on the last accesses; and the way back."""
    rig = Reloading(tmp_path)
    daemon = SmallDaemon()
    daemon.reloader = rig.reloader
    rig.access(0x101)
    rig.change("& 0xFF", "& 0xFF | 0x80")

    done = await commands.reload(daemon, PluginRequest("a"))

    assert ("cell", 2, ["vm/a", "vm/b"]) == (done.plugin, done.generation, done.devices)
    assert (1, ["vm/a: read, 1 bytes at ports+0x1: was 0x0, is 0x80"]) == (done.differing, done.differences)
    assert 3 == (await commands.rollback(daemon, PluginRequest("cell"))).generation


async def test_reload_that_is_rejected_is_an_error_with_its_place(tmp_path: Path) -> None:
    """File, line, reason, remedy; and who is known, if nobody is called so."""
    rig = Reloading(tmp_path)
    daemon = SmallDaemon()
    daemon.reloader = rig.reloader
    rig.change("class Cell(Device):", "class Cell(Device:")

    with pytest.raises(Failure) as rejected:
        await commands.reload(daemon, PluginRequest("cell"))
    with pytest.raises(Failure) as unknown:
        await commands.reload(daemon, PluginRequest("call"))

    assert "io.mmiod.ReloadRejected" == rejected.value.error
    found = rejected.value.parameters
    assert ("cell", str(tmp_path / "cell.py"), 18) == (found["plugin"], found["file"], found["line"])
    assert "SyntaxError: invalid syntax" == found["reason"]
    assert found["remedy"]
    assert ("io.mmiod.UnknownPlugin", {"name": "call", "known": ["cell"]}) == (
        unknown.value.error, unknown.value.parameters
    )  # fmt: skip
