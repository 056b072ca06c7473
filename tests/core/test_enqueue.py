"""ENQCMD and ENQCMDS: commands that a device takes or refuses (SDM vol. 2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from attrs import evolve

from mmiod.core.run import Platform, run
from mmiod.device import PENDING, Device, Pending, Region
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.trace.record import DIRECTION, SIZE
from mmiod.values import (
    READ,
    WRITE,
    Completion,
    DecodedExit,
    Done,
    ExtendedState,
    Fault,
    NeedRegisters,
    RawExit,
    RegisterSet,
    Segment,
    Space,
    Unsupported,
    VcpuState,
)
from mmiod.x86 import Mode
from tests.core.guests import DEVICE, Guest, finished
from tests.machine.machines import Rig
from tests.x86.states import CF, ZF, flat

SOURCE = 0x1000
ENQCMD, ENQCMDS = "f20f38f806", "f30f38f806"  # rax, [rsi]
GP = Fault(13, 0)
OTHERS = 0x8D5 & ~ZF
VECTORS = Platform(vectors=True)
COMMAND = bytes(4) + bytes(range(60))


class Portal(Device):
    """Takes two commands of 64 bytes; `plain` is memory without a queue, `slow` owes answers."""

    portal = Region(0x1000)
    plain = Region(0x1000)
    slow = Region(0x1000)
    commands: tuple[tuple[int, bytes], ...] = ()

    @portal.on_enqueue
    def _take(self, offset: int, command: bytes) -> bool:
        if len(self.commands) == 2:
            return False
        self.commands += ((offset, command),)
        return True

    @slow.on_read
    def _wait(self, _offset: int, _size: int) -> Pending:
        return PENDING

    @slow.on_write
    def _ignore(self, _offset: int, _size: int, _value: int) -> None:
        pass


@pytest.fixture(name="guest")
def _guest() -> Iterator[Guest]:
    guest = Guest(platform=VECTORS)
    memory = guest.rig.machine.memory
    places = {
        name: Placement(Space.MMIO, DEVICE + 0x1000 * n) for n, name in enumerate(("portal", "plain", "slow"))
    }
    guest.rig = Rig({"dev": (Portal, DeviceDescription("test/portal", at=places))})
    guest.rig.machine.memory = memory
    yield guest
    guest.close()


def vcpu(**registers: object) -> VcpuState:
    """64-bit user code with PASID 5, whose command goes to the portal."""
    vectors = ExtendedState(RegisterSet.PASID, pasid=1 << 31 | 0x5)
    defaults: dict[str, object] = {"rax": DEVICE, "rsi": SOURCE, "cpl": 3, "extended": vectors}
    return flat(Mode.CODE64, **(defaults | registers))


def execute(guest: Guest, code: str, state: VcpuState, command: bytes = COMMAND) -> Completion:
    """Execute, with this command in memory."""
    guest.poke(SOURCE, command)
    guest.state, guest.code = state, bytes.fromhex(code)
    return guest.once()


def flags(completion: Completion) -> int:
    """The arithmetic flags after it."""
    assert isinstance(completion, Done), completion
    return completion.delta.rflags & 0x8D5


def commands(guest: Guest) -> tuple[tuple[int, bytes], ...]:
    """What the device took."""
    return cast("Portal", guest.rig.machine.hosts["dev"].device).commands


def test_user_command_gets_the_programs_pasid(guest: Guest) -> None:
    """Bits 19:0 are IA32_PASID's, 31:20 are 0; ZF says taken, the other flags are cleared."""
    state = vcpu(rflags=2 | OTHERS | ZF, rax=DEVICE + 0x40)
    assert 0 == flags(execute(guest, ENQCMD, state))
    assert ((0x40, (5).to_bytes(4, "little") + COMMAND[4:]),) == commands(guest)
    assert [(WRITE, 64)] == [(record[DIRECTION], record[SIZE]) for record in guest.rig.records]


def test_supervisor_command_goes_as_it_is(guest: Guest) -> None:
    """PASID and privilege are the program's own; IA32_PASID is not asked for."""
    command = (1 << 31 | 0x12345).to_bytes(4, "little") + COMMAND[4:]
    assert 0 == flags(execute(guest, ENQCMDS, vcpu(cpl=0, extended=None), command))
    assert ((0, command),) == commands(guest)


def test_what_is_asked_for_includes_what_is_known() -> None:
    """A hypervisor sends what the last question named: a breakpoint's addresses stay known."""
    guest = Guest(platform=VECTORS)
    asked: list[RegisterSet] = []
    guest.state, guest.code = vcpu(extended=None, dr7=0x10001), bytes.fromhex(ENQCMD)
    while isinstance(completion := guest.once(), NeedRegisters) and len(asked) < 4:
        asked.append(completion.registers)
        guest.state.extended = ExtendedState(completion.registers, pasid=1 << 31)
    guest.close()
    assert [RegisterSet.DEBUG, RegisterSet.DEBUG | RegisterSet.PASID] == asked


def test_refused_command_is_tried_again(guest: Guest) -> None:
    """The third one: ZF, and nothing changed."""
    seen = [flags(execute(guest, ENQCMD, vcpu(rflags=2 | CF))) for _ in range(3)]
    assert [0, 0, ZF] == seen
    assert 2 == len(commands(guest))


@pytest.mark.parametrize("target", [0x2000, DEVICE + 0x1000, 0x90000])
def test_command_to_what_is_no_queue_is_dropped(guest: Guest, target: int) -> None:
    """RAM, a region without a queue, nobody: nothing is written, ZF is set."""
    assert ZF == flags(execute(guest, ENQCMD, vcpu(rax=target)))
    assert bytes(64) == guest.peek(0x2000, 64)


@pytest.mark.parametrize(
    ("code", "changes", "head"),
    [
        (ENQCMD, {"rax": DEVICE + 32}, 0),
        (ENQCMD, {"extended": ExtendedState(RegisterSet.PASID, pasid=5)}, 0),  # not valid
        (ENQCMD, {}, 1),
        (ENQCMD, {}, 1 << 31),
        (ENQCMDS, {"cpl": 0}, 1 << 20),
        (ENQCMDS, {"cpl": 0}, 1 << 30),
        (ENQCMDS, {"cpl": 3}, 0),
        (ENQCMD, {"rsi": 1 << 63}, 0),
        (ENQCMD, {"rax": 1 << 63}, 0),
    ],
)
def test_general_protection(guest: Guest, code: str, changes: dict[str, object], head: int) -> None:
    """Alignment, PASID, privilege, reserved bits of the command, canonical form."""
    assert GP == execute(guest, code, vcpu(**changes), head.to_bytes(4, "little") + COMMAND[4:])
    assert () == commands(guest)


def test_destination_is_in_es(guest: Guest) -> None:
    """The segment of the destination cannot be overridden; the source's can."""
    state = flat(Mode.CODE32, rax=0x40, rsi=SOURCE, extended=vcpu().extended)
    state.segments[0] = Segment(DEVICE, 0xFFFF_FFFF, 8, 0xC093)
    state.segments[4] = Segment(0x100, 0, 8, 0xC093)
    assert GP == execute(guest, "64" + ENQCMD, state)  # beyond the limit of FS
    state.segments[4].limit = 0xFFFF_FFFF
    state.gpr[6] = SOURCE - 0x100
    assert 0 == flags(execute(guest, "64" + ENQCMD, state))
    assert [0x40] == [offset for offset, _ in commands(guest)]


def test_pasid_is_asked_for(guest: Guest) -> None:
    """Once, and not at all of a hypervisor that said it cannot tell."""
    assert NeedRegisters(RegisterSet.PASID) == execute(guest, ENQCMD, vcpu(extended=None))
    guest.platform = evolve(VECTORS, vectors=False)
    assert Unsupported(bytes.fromhex(ENQCMD)) == execute(guest, ENQCMD, vcpu(extended=None))
    assert () == commands(guest)


def test_command_waits_for_a_device_that_owes_an_answer(guest: Guest) -> None:
    """Its accesses are in order: the command comes when the read before it is answered."""
    machine = guest.rig.machine
    read = run(machine, DecodedExit(1, 1, Space.MMIO, READ, DEVICE + 0x2000, 4), VECTORS, 16)
    host = machine.hosts["dev"]
    assert host is next(read)
    guest.poke(SOURCE, COMMAND)
    running = run(machine, RawExit(0, 1, vcpu(), bytes.fromhex(ENQCMD)), VECTORS, 16)
    assert host is next(running)
    assert () == commands(guest)
    host.device.complete(1)
    assert 0 == flags(finished(running))
    assert 1 == len(commands(guest))


def test_answer_that_is_no_answer() -> None:
    """A hook that returns something else: quarantine, and the guest tries again."""

    class Wrong(Device):
        portal = Region(0x1000)

        @portal.on_enqueue
        def _take(self, _offset: int, _command: bytes) -> bool:
            return 1  # type: ignore[return-value]  # that is what is wrong

    rig = Rig({"dev": (Wrong, DeviceDescription("test/wrong", at={"portal": Placement(Space.MMIO, 0)}))})
    found = rig.machine.find(Space.MMIO, 0)
    assert False is rig.machine.enqueue(found, 0, COMMAND)
    assert rig.machine.hosts["dev"].failure is not None
