"""The same accesses in this process, without sockets: what is ours of a round trip."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import timeit
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from attrs import evolve

from bench import prototype
from bench.contest import Effort
from bench.figures import Row
from bench.programs import MACHINE
from mmiod.attach.flat import Flat
from mmiod.attach.flights import Flights
from mmiod.attach.vcpu_slot import Shared, Slot
from mmiod.config import Config, VmConfig
from mmiod.core.lane import SLOW, Lane
from mmiod.core.pump import Pump
from mmiod.core.run import Platform, Run, run
from mmiod.daemon import build
from mmiod.machine import slot as memory_slot
from mmiod.machine.machine import Machine
from mmiod.protocol.exit import (
    NO_DEADLINE,
    Client,
    Ledger,
    Offer,
    Session,
    encode_completion,
    encode_exit,
    shared,
)
from mmiod.values import (
    CS,
    READ,
    WRITE,
    Completion,
    DecodedExit,
    Direction,
    Done,
    Exit,
    RawExit,
    Segment,
    Space,
    Values,
    VcpuState,
)
from mmiod.x86 import REP_BOUND, Plan, decode, mode_of

VM_NAME: Final = "bench"
BASE: Final = 0xFEBF_0000
SCRATCH: Final = BASE + 4
READ_SCRATCH: Final = ("read", "registers", 4, 4)
PATTERN: Final = 0x6D6D_696F
TESTDEV: Final = 3 << 15
COMMAND, BAR0, MEMORY_SPACE = 0x04, 0x10, 2
RCX, RDX, RBX, RSI = 1, 2, 3, 6
RAM: Final = 1 << 16
LOAD: Final = bytes.fromhex("8b4304") + b"\x90" * 12
"""mov eax, [ebx + 4], and what follows it."""
OR: Final = bytes.fromhex("094304") + b"\x90" * 12
"""or [ebx + 4], eax."""
REP_OUTSB: Final = bytes.fromhex("f36e") + b"\x90" * 13
DEBUGCON: Final = 0x402
STRING: Final = 512
"""Bytes of a string to a device that takes it at once."""
REPEATS: Final = 25
PLATFORM: Final = Platform(physical_bits=40)


SUBJECT: Final = "in one process, without sockets; best"


def measure(effort: Effort) -> list[Row]:
    """Each part so many times, in turn with the others, and that `REPEATS` times: the best of it."""
    count = effort.count
    effort.progress("the pipeline in one process")
    parts = _parts()
    best = dict.fromkeys(parts, float("inf"))
    for _ in range(REPEATS):
        for name, part in parts.items():
            best[name] = min(best[name], timeit.timeit(part, number=count))
    return [Row(SUBJECT, name, taken * 1e6 / count, n=count * REPEATS) for name, taken in best.items()]


def _parts() -> Mapping[str, Callable[[], object]]:
    machine = bench_machine()
    host = machine.hosts["testdev"]
    decoded = DecodedExit(0, 1, Space.MMIO, READ, SCRATCH, 4)
    raw = RawExit(0, 1, _flat(), LOAD, gpa=SCRATCH)
    modified = RawExit(0, 1, _flat(), OR, gpa=SCRATCH)
    mode = mode_of(raw.state)
    string = RawExit(0, 1, _string(), REP_OUTSB)
    values, done = _execute(machine, decoded), _execute(machine, raw)
    assert isinstance(_execute(machine, string), Done)
    assert values == Values(PATTERN.to_bytes(4, "little")), values
    assert isinstance(done, Done), done
    plan = decode(LOAD, mode)
    assert isinstance(plan, Plan), plan
    plans: prototype.Plans = {}
    return {
        "prototype: decode, a new instruction": partial(prototype.plan, LOAD),
        "prototype: plan, found and run": lambda: prototype.run(plans, LOAD, raw.state.gpr, PATTERN),
        "decode, a new instruction": partial(decode.__wrapped__, LOAD, mode),
        "plan, cached: found and run": lambda: _run_plan(decode(LOAD, mode), raw.state),
        "plan, cached: found and run directly": lambda: _run_direct(decode(LOAD, mode), raw.state),
        "core.run, decoded exit": lambda: _execute(machine, decoded),
        "core.run, raw exit": lambda: _execute(machine, raw),
        "core.run, raw exit, read and written": lambda: _execute(machine, modified),
        f"core.run, rep outsb of {STRING}": lambda: _execute(machine, string),
        "machine.read": lambda: machine.read(Space.MMIO, SCRATCH, 4),
        "one hook of it: watched, in the journal": partial(host.feed, 0, *READ_SCRATCH),
        "one hook of it: watched": partial(
            host.guarded, host.inputs["read"], 0, host.device, *READ_SCRATCH[1:]
        ),
        "a device's snapshot": host.cut,
        "flat lane, a read of what is stored": _lane(machine, READ),
        "flat lane, a write": _lane(machine, WRITE),
        "slot, a read that comes again": _slot(machine, decoded),
        "protocol, decoded exit in, VALUES out": _codec(decoded, values),
        "protocol, raw exit in, DONE out": _codec(raw, done),
    }


def _execute(machine: Machine, exit_: DecodedExit | RawExit) -> Completion:
    return _finish(run(machine, exit_, PLATFORM, REP_BOUND))


def _finish(started: Run) -> Completion:
    try:
        next(started)
    except StopIteration as finished:
        completion: Completion = finished.value
        return completion
    raise AssertionError("the test function answers at once")


def _run_plan(plan: object, state: VcpuState) -> None:
    """As the prototype's: one request, answered at once."""
    assert isinstance(plan, Plan)
    steps = plan.run(state)
    next(steps)
    try:
        steps.send(PATTERN)
    except StopIteration:
        return


def _run_direct(plan: object, state: VcpuState) -> None:
    """The same without the generator."""
    assert isinstance(plan, Plan)
    assert plan.direct is not None
    plan.direct.linear(state)
    plan.direct.delta(state, PATTERN)


def _lane(machine: Machine, direction: Direction) -> Callable[[], None]:
    lane, host = Lane(machine), machine.hosts["testdev"]
    place = lane.learn(Space.MMIO, direction, 4, SCRATCH)
    assert place is not None

    def access() -> None:
        if lane.access(place, PATTERN, 0, 1, -1) == SLOW:  # its journal is full
            host.cut()

    return access


def _slot(machine: Machine, exit_: DecodedExit) -> Callable[[], None]:
    """One vCPU's, whose client never sleeps."""
    ledger, mapping = Ledger(1), mmap.mmap(-1, 2 * shared.PAGE)
    flights = Flights(machine, Pump(threading.Event()), ledger, PLATFORM, 1, virtual=False)
    owner = Shared(mapping, ledger, _refused, _refused)
    owner.flat = Flat(Lane(machine), flights, ledger, flights.drain)
    slot = Slot(owner, 0, -1)
    at = slot.page + shared.EXIT
    body = encode_exit(exit_)
    mapping[at : at + len(body)] = body
    number, state = (at + 16) // 8, (slot.page + shared.STATE) // 4
    book, words, flags = ledger.book(0), owner.words, owner.flags

    def again() -> None:
        words[number], flags[state] = book.sequence + 1, shared.READY
        slot.look()
        owner.unsure.clear()

    return again


def _refused(*_what: object) -> None:
    raise AssertionError("a slot is taken the short way")


def _codec(exit_: Exit, completion: Completion) -> Callable[[], None]:
    data, session = encode_exit(exit_), _session()

    def both_ways() -> None:
        session.receive(data)
        encode_completion(
            completion, vcpu=0, sequence=1, posted=0, interrupt=False, guest_ns=0, deadline_ns=NO_DEADLINE
        )

    return both_ways


def _session() -> Session:
    """A connection behind its HELLO."""
    offer = Offer(
        capabilities=0, generation=1, hook_deadline_ns=0, max_vcpus=1, max_slots=1, rep_bound=REP_BOUND
    )
    session = Session(offer)
    session.receive(Client(VM_NAME, 1, physical_bits=PLATFORM.physical_bits).hello())
    session.welcome(bytes(16))
    return session


def bench_machine() -> Machine:
    """The machine as the daemon builds it; BAR 0 of the test function is placed."""
    vm = VmConfig(VM_NAME, MACHINE, Path("unused"))
    machine = build(Config((vm,))).machines[VM_NAME]
    machine.power_on(virtual=False)
    write = DecodedExit(0, 1, Space.PCI_CONFIG, WRITE, TESTDEV | BAR0, 4, data=BASE.to_bytes(4, "little"))
    _execute(machine, write)
    enable = MEMORY_SPACE.to_bytes(2, "little")
    _execute(machine, evolve(write, address=TESTDEV | COMMAND, size=2, data=enable))
    pattern = PATTERN.to_bytes(4, "little")
    _execute(machine, evolve(write, space=Space.MMIO, address=SCRATCH, data=pattern))
    descriptor = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, RAM)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    storage = memory_slot.storage_of(descriptor, 0, RAM, read_only=False)
    machine.memory.add(memory_slot.Slot(0, 0, RAM, False, storage))
    return machine


def _flat() -> VcpuState:
    """32-bit protected mode, without paging."""
    segments = [Segment(0, 0xFFFF_FFFF, 16, 0xC093) for _ in range(6)]
    segments[CS] = Segment(0, 0xFFFF_FFFF, 8, 0xC09B)
    state = VcpuState(segments=segments, cr0=1, rip=0x1000)
    state.gpr[RBX] = BASE
    return state


def _string() -> VcpuState:
    """The same, with a string at 4 KiB for the debug console."""
    state = _flat()
    state.gpr[RCX], state.gpr[RDX], state.gpr[RSI] = STRING, DEBUGCON, 0x1000
    return state
