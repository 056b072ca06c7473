"""The short way of a raw exit: what the plan does, or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings, strategies as st

from mmiod.core.direct import run_direct
from mmiod.core.run import Platform, run
from mmiod.core.translation import Translation
from mmiod.device import PENDING, Device, Pending, Region
from mmiod.machine.address_map import Policy
from mmiod.machine.description import DeviceDescription, Placement, UnclaimedDescription
from mmiod.values import (
    DS,
    WRITE,
    Completion,
    Delta,
    Done,
    ExtendedState,
    Intent,
    RawExit,
    RegisterSet,
    Space,
    VcpuState,
)
from mmiod.x86 import Mode, Plan, decode, mode_of
from tests.core.guests import PAGE, REMOTE, Guest, finished
from tests.machine.machines import Rig
from tests.x86.states import AC, AM, PE, PG, RF, TF, flat

MOVES = """
8b03 8903 8a03 8803 8a23 8823 668b03 668903 488b03 488903 c60381 c70380000000 66c7038000 48c70380000000
0fb603 0fbe03 480fbe03 660fbf03 486303 a0005004000000000000 a3000504000000000000
""".split()
PLATFORM = Platform(physical_bits=40, vectors=True)
CLAIMED = 0x10800
"""The device's; it begins and ends within pages of RAM."""
FORWARDED, NOTHING = 0x30000, 0x34000
LINEAR = 0x40000
EDGES = [at & -PAGE for at in (CLAIMED, CLAIMED + PAGE, CLAIMED + 2 * PAGE)]
FRAMES = [*EDGES, 0x4000, REMOTE, FORWARDED, NOTHING]
ELSEWHERE = 1 << 63
"""The address of a breakpoint, which keeps an instruction from the short way."""


def machine() -> Guest:
    """A device among RAM, and a range that is the hypervisor's."""
    forward = UnclaimedDescription(Space.MMIO, FORWARDED, PAGE, Policy.FORWARD)
    guest = Guest(platform=PLATFORM, device_base=CLAIMED, unclaimed=(forward,))
    guest.map(2, CLAIMED & -PAGE, 3 * PAGE)
    return guest


def stepped(state: VcpuState) -> VcpuState:
    """The same with a breakpoint that is never met."""
    return evolve(state, dr7=1 | WRITE << 16, extended=ExtendedState(RegisterSet.DEBUG, dr=[ELSEWHERE] * 4))


def seen(guest: Guest) -> list[object]:
    """All that an exit left behind."""
    records = [record[4:13] for record in guest.rig.records]
    memory = [guest.peek(gpa, PAGE) for gpa in (0x4000, CLAIMED & -PAGE, CLAIMED + 2 * PAGE & -PAGE)]
    return [guest.log.accesses, records, guest.rig.events, memory]


@st.composite
def exits(draw: st.DrawFn) -> RawExit:
    """A move near an edge of something, with more or less known about its two pages."""
    mode = draw(st.sampled_from([Mode.CODE64, Mode.CODE64, Mode.CODE32, Mode.CODE16]))
    paged, near = draw(st.booleans()), draw(st.sampled_from([0x7FC, 0xFFC]))
    frames = [draw(st.sampled_from(FRAMES)) for _ in range(2)]
    start = LINEAR if paged else frames[0]
    state = flat(
        mode,
        rbx=start + near + draw(st.integers(-4, 4)),
        rax=0x8877_6655_4433_2211,
        rip=0x7000,
        rflags=2 | draw(st.sampled_from([0, 0, AC, TF, RF])),
        cr0=PE | AM | PG * paged,
        cr3=0x2000,
        cpl=draw(st.sampled_from([0, 3])),
    )
    state.segments[DS].limit = draw(st.sampled_from([0xFFFF_FFFF, 0xFFFF_FFFF, start + 0x7FF, start + 0xFFF]))
    code = bytes.fromhex(draw(st.sampled_from(MOVES)))
    address_size = b"\x67" if mode is Mode.CODE16 else b""
    exit_ = RawExit(0, 1, state, (address_size + code).ljust(15, b"\x90"))
    exit_.translations = {(start + PAGE * n, intent): frames[n] for n in range(2) for intent in Intent}
    for missing in draw(st.sets(st.sampled_from(list(exit_.translations)), max_size=2)):
        del exit_.translations[missing]
    if draw(st.booleans()):
        exit_.gpa = draw(st.sampled_from(frames)) + near
        exit_.gva = draw(st.sampled_from([None, start + near]))
        exit_.intent = draw(st.sampled_from([None, *Intent]))
    if draw(st.booleans()):
        exit_.memory = [(REMOTE, bytes(range(64)))]
    return exit_


@settings(max_examples=300)
@given(exits())
def test_the_short_way_is_the_plan_s(exit_: RawExit) -> None:
    """Completion, accesses, records, events and RAM are those of the plan, whatever is there and known."""
    short, long = machine(), machine()
    assert short.once(exit_) == long.once(evolve(exit_, state=stepped(exit_.state)))
    assert seen(short) == seen(long)
    short.close()
    long.close()


def attempt(guest: Guest, exit_: RawExit) -> Completion | None:
    """The short way alone."""
    plan = decode(exit_.code, mode_of(exit_.state))
    assert isinstance(plan, Plan)
    assert plan.direct is not None
    machine_ = guest.rig.machine
    translation = Translation(machine_.memory, exit_, PLATFORM, confirmed=exit_.gpa is None)
    return finished(run_direct(machine_, translation, plan.direct))  # type: ignore[arg-type]


@pytest.mark.parametrize("code", MOVES[:-2])
def test_moves_to_a_device_go_the_short_way(code: str) -> None:
    """Within the device's range a move is done, up to its last byte."""
    guest = machine()
    data = bytes.fromhex(code).ljust(15, b"\x90")
    for address in (CLAIMED, CLAIMED + 2 * PAGE - 8):
        done = attempt(guest, RawExit(0, 1, flat(Mode.CODE64, rbx=address), data))
        assert isinstance(done, Done)
    assert [0, 2 * PAGE - 8] == [access[1] for access in guest.log.accesses]
    guest.close()


@pytest.mark.parametrize(
    ("address", "changes"),
    [
        (CLAIMED + 2 * PAGE - 3, {}),  # over the end of the range
        (CLAIMED - 1, {}),
        (0x10FFE, {}),  # over the end of a page
        (0x4000, {}),  # RAM
        (NOTHING, {}),
        (FORWARDED, {}),
        (CLAIMED, {"gpa": CLAIMED + PAGE}),  # not what the exit names
    ],
)
def test_everything_else_is_left_to_the_plan(address: int, changes: dict[str, Any]) -> None:
    """It declines before anything is accessed."""
    guest = machine()
    state = flat(Mode.CODE64, rbx=address)
    assert None is attempt(guest, evolve(RawExit(0, 1, state, bytes.fromhex("8b03")), **changes))
    assert ([], []) == (guest.log.accesses, guest.rig.records)
    guest.close()


class Slow(Device):
    """Owes every answer."""

    main = Region(8)

    @main.on_read
    def _read(self, _offset: int, _size: int) -> Pending:
        return PENDING

    @main.on_write
    def _write(self, _offset: int, _size: int, _value: int) -> Pending:
        return PENDING


@pytest.mark.parametrize("way", [lambda state: state, stepped])
def test_both_ways_wait_for_a_device(way: Any) -> None:  # noqa: ANN401  # a function of the state
    """PENDING yields the host, and its answer goes to the register; BUSY asks anew afterwards."""
    rig = Rig({"slow": (Slow, DeviceDescription("test/slow", at={"main": Placement(Space.MMIO, CLAIMED)}))})
    host = rig.machine.hosts["slow"]
    exit_ = RawExit(0, 1, way(flat(Mode.CODE64, rbx=CLAIMED)), bytes.fromhex("8b03"))
    first, second = (run(rig.machine, exit_, PLATFORM, 16) for _ in range(2))
    assert [host, host] == [next(first), next(second)]
    for running, value in ((first, 0x11), (second, 0x22)):
        host.device.complete(value)
        rig.machine.settled.clear()
        with pytest.raises(StopIteration) as stopped:
            running.send(value)
        assert Done(Delta(2, 2, {0: value})) == stopped.value.value
        if running is first:
            assert host is second.send(None)
    assert 2 == host.statistics.reads


def test_an_access_behind_another_is_not_checked_anew() -> None:
    """The range turns into the hypervisor's while an ADD waits for its read: the write is lost."""
    forward = UnclaimedDescription(Space.MMIO, CLAIMED, 8, Policy.FORWARD)
    described = DeviceDescription("test/slow", at={"main": Placement(Space.MMIO, CLAIMED)})
    rig = Rig({"slow": (Slow, described)}, unclaimed=(forward,))
    host = rig.machine.hosts["slow"]
    running = run(rig.machine, RawExit(0, 1, flat(Mode.CODE64, rbx=CLAIMED), b"\x01\x03"), PLATFORM, 16)
    assert host is next(running)
    rig.machine.place("slow", Slow.regions["main"], Space.MMIO, None)
    with pytest.raises(StopIteration) as stopped:
        running.send(0x11)
    assert isinstance(stopped.value.value, Done)
    assert ["forwarded"] == [record[12] for record in rig.records]
