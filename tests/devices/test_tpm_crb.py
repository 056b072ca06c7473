"""TPM with CRB interface, by the PTP's registers and state diagram ("CRB Interface")."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from devices.tpm.crb import TpmCrb
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.state import restore, save
from mmiod.testing.harness import Harness
from mmiod.values import Space
from tests.devices.tpms import COMMAND_SIZE, FAILURE, STARTUP, FakeTpm, command, response
from tests.machine.machines import Rig

LOC_STATE, LOC_CTRL, LOC_STS, INTF_ID = 0x00, 0x08, 0x0C, 0x30
REQ, STS, CANCEL, START, BUFFER = 0x40, 0x44, 0x48, 0x4C, 0x80
REQUEST, RELINQUISH, SEIZE = 1, 2, 4
READY, IDLE = 1, 2
PAGE = 0x1000


class Crb(Harness[TpmCrb]):
    """The device as a driver sees it: 32-bit registers of a locality."""

    def __init__(self) -> None:
        super().__init__(TpmCrb)
        self.tpm = FakeTpm(self)

    def get(self, register: int, locality: int = 0) -> int:
        """Read a register."""
        return self.read_at(locality * PAGE + register, 4)

    def put(self, register: int, value: int, locality: int = 0) -> None:
        """Write a register."""
        self.write_at(locality * PAGE + register, value, 4)

    def fill(self, data: bytes, locality: int = 0) -> None:
        """Write a command, byte by byte."""
        for offset, byte in enumerate(data):
            self.write_at(locality * PAGE + BUFFER + offset, byte)

    def buffer(self, length: int, locality: int = 0) -> bytes:
        """What the buffer holds."""
        return bytes(self.read_at(locality * PAGE + BUFFER + offset) for offset in range(length))

    def start(self, data: bytes, locality: int = 0) -> None:
        """Begin a command as the specification says."""
        self.put(REQ, READY, locality)
        self.fill(data, locality)
        self.put(START, 1, locality)


@pytest.fixture
def crb() -> Crb:
    """A TPM whose locality 0 has been granted."""
    crb = Crb()
    crb.put(LOC_CTRL, REQUEST)
    return crb


def test_registers_after_reset() -> None:
    """PTP, reset values: valid, no locality, Idle, an interface of type CRB, a buffer of 0xF80 bytes."""
    crb = Crb()
    assert 0x81 == crb.get(LOC_STATE)
    assert 0 == crb.get(LOC_STS)
    assert 0x0002_5B11 == crb.get(INTF_ID)
    assert 0x0000_1014 == crb.get(0x34)
    assert [0, 2, 0, 0] == [crb.get(register) for register in (REQ, STS, CANCEL, START)]
    assert [0xF80, 0xFED4_0080, 0, 0xF80, 0xFED4_0080, 0] == [crb.get(0x58 + 4 * n) for n in range(6)]
    assert 0xFED4_3080 == crb.get(0x5C, locality=3)


def test_reset_initializes_the_tpm_and_forgets_what_was_under_way(crb: Crb) -> None:
    """_TPM_INIT: the command is cancelled, and its late response reaches nobody."""
    crb.start(STARTUP)
    late = crb.tpm.number
    crb.device.reset()
    assert ("initialize", b"") == crb.tpm.asked[-1]
    assert [("tpm", late)] == crb.context.cancelled
    crb.reply("tpm", late, response(b"late"))
    assert (0x81, 2, 0) == (crb.get(LOC_STATE), crb.get(STS), crb.get(START))


def test_command_runs_through_all_states(crb: Crb) -> None:
    """Idle, Ready, Reception, Execution (START reads 1 until the response is there), Completion, Idle."""
    assert 2 == crb.get(STS)
    crb.put(REQ, READY)
    assert (0, 0) == (crb.get(REQ), crb.get(STS))
    crb.fill(STARTUP)
    crb.put(START, 1)
    assert ("execute", b"\0" + STARTUP) == crb.tpm.asked[-1]
    assert [1, 1, 1] == [crb.get(START) for _ in range(3)]
    crb.tpm.answer(response(b"abc"))
    assert 0 == crb.get(START)
    assert response(b"abc") == crb.buffer(13)
    crb.put(REQ, IDLE)
    assert 2 == crb.get(STS)


def test_next_command_needs_not_pass_idle(crb: Crb) -> None:
    """CapCRBIdleBypass: from Completion both cmdReady and the next command's bytes lead on."""
    for request in (READY, 0):
        crb.start(STARTUP)
        crb.tpm.answer(response())
        crb.put(REQ, request)
        crb.fill(command(b"next"))
        crb.put(START, 1)
        assert ("execute", b"\0" + command(b"next")) == crb.tpm.asked[-1]
        crb.tpm.answer(response())


def test_command_without_cmd_ready_is_taken_and_told_of_once(crb: Crb) -> None:
    """Stock SeaBIOS never asks for Ready before its first command; each such command counts."""
    for _ in range(2):
        crb.put(REQ, IDLE)
        crb.fill(STARTUP)
        crb.put(START, 1)
        assert ("execute", b"\0" + STARTUP) == crb.tpm.asked[-1]
        crb.tpm.answer(response())
    assert ["tpm_command_early"] == [event for event, _ in crb.context.events]
    assert 2 == crb.device.state.early_commands


@pytest.mark.parametrize("phase", ["idle", "ready", "completion"])
def test_start_without_a_command_does_nothing(crb: Crb, phase: str) -> None:
    """START means something in Command Reception only."""
    if phase == "completion":
        crb.start(STARTUP)
        crb.tpm.answer(response())
    elif phase == "ready":
        crb.put(REQ, READY)
    before = crb.tpm.asked
    crb.put(START, 1)
    assert 0 == crb.get(START)
    assert before == crb.tpm.asked


def test_execution_cannot_be_disturbed(crb: Crb) -> None:
    """While a command runs, cmdReady, goIdle, a second START and bytes of a command do nothing."""
    crb.start(STARTUP)
    asked = crb.tpm.asked
    for register, value in ((REQ, READY), (REQ, IDLE), (START, 1), (BUFFER, 0)):
        crb.put(register, value)
    assert (asked, 1, 0) == (crb.tpm.asked, crb.get(START), crb.get(STS))
    assert STARTUP == crb.buffer(len(STARTUP))


def test_cancel_reaches_the_tpm_and_the_response_still_comes(crb: Crb) -> None:
    """CTRL_CANCEL asks for an early end: START falls with the response, not before."""
    crb.start(STARTUP)
    crb.put(CANCEL, 1)
    assert [("tpm", crb.tpm.number)] == crb.context.cancelled
    assert 1 == crb.get(START)
    crb.tpm.answer(response())
    crb.put(CANCEL, 0)
    crb.put(CANCEL, 1)
    assert (0, 1) == (crb.get(START), len(crb.context.cancelled))


@pytest.mark.parametrize("length", [0, 9, 0xF81, 0xFFFF_FFFF])
def test_length_that_cannot_be_is_answered_here(crb: Crb, length: int) -> None:
    """A commandSize below the header or beyond the buffer: TPM_RC_COMMAND_SIZE, and no request."""
    crb.start(STARTUP[:2] + length.to_bytes(4, "big") + STARTUP[6:])
    assert 0 == crb.get(START)
    assert COMMAND_SIZE == crb.buffer(10)
    assert [("initialize", b"")] == crb.tpm.asked


def test_longest_command_and_response(crb: Crb) -> None:
    """All 0xF80 bytes are used, the last one of the page too."""
    crb.start(command(bytes(range(256)) * 15 + bytes(118)))
    assert ("execute", b"\0" + command(bytes(range(256)) * 15 + bytes(118))) == crb.tpm.asked[-1]
    longest = response(b"\x5a" * (0xF80 - 10))
    crb.tpm.answer(longest)
    assert longest == crb.buffer(0xF80)


@pytest.mark.parametrize("size", [0, 9, 0xF81])
def test_response_that_does_not_fit_is_a_failure(crb: Crb, size: int) -> None:
    """What is no response, or exceeds the buffer, is not shown to the guest."""
    crb.start(STARTUP)
    crb.tpm.answer(bytes(size))
    assert (0, 1) == (crb.get(START), crb.get(STS))
    assert FAILURE == crb.buffer(10)


def test_dead_tpm_is_fatal_until_reset(crb: Crb) -> None:
    """tpmSts: the command ends, later ones end at once and ask nobody, one event; reset begins anew."""
    crb.start(STARTUP)
    crb.tpm.die()
    assert (0, 1) == (crb.get(START), crb.get(STS))
    asked = crb.tpm.asked
    crb.start(STARTUP)
    assert (0, 1, asked) == (crb.get(START), crb.get(STS), crb.tpm.asked)
    assert FAILURE == crb.buffer(10)
    assert [("tpm_failed", {"reason": "swtpm exited"})] == crb.context.events
    crb.device.reset()
    assert 2 == crb.get(STS)


def test_failed_initialization_is_fatal() -> None:
    """A TPM that did not start is in failure mode before the first command."""
    crb = Crb()
    crb.tpm.die()
    assert 3 == crb.get(STS)


def test_restored_tpm_is_in_failure_mode() -> None:
    """A guest must not go on with a TPM that has not measured what the guest did; nothing hangs."""
    crb = Crb()
    crb.put(LOC_CTRL, REQUEST)
    crb.start(STARTUP)
    crb.device.on_restore()
    assert (0, 1) == (crb.get(START), crb.get(STS))


def test_saved_interface_is_restored() -> None:
    """Locality, buffer and counters come along in a saved state; the TPM itself does not."""
    placed = DeviceDescription("tpm/crb", at={"localities": Placement(Space.MMIO, 0xFED4_0000)})
    first, second = (Rig({"tpm": (TpmCrb, placed)}).machine for _ in range(2))
    for machine in (first, second):
        machine.power_on(virtual=False)
    first.write(Space.MMIO, 0xFED4_1008, 4, 1)
    first.write(Space.MMIO, 0xFED4_1080, 8, 0x1122_3344_5566_7788)
    restore(second, save(first))
    assert 0x87 == second.read(Space.MMIO, 0xFED4_0000, 4)
    assert 0x1122_3344_5566_7788 == second.read(Space.MMIO, 0xFED4_1080, 8)
    assert 1 == second.read(Space.MMIO, 0xFED4_0044, 4)
    state = second.hosts["tpm"].device.state
    assert (1, True) == (state.early_commands, state.failed)


# --- localities ("Locality", TPM_LOC_CTRL_x, TPM_LOC_STS_x) ------------------------------------


def test_request_and_relinquish() -> None:
    """A free TPM is granted at once, in every locality's LOC_STATE; relinquishing frees it."""
    crb = Crb()
    crb.put(LOC_CTRL, REQUEST, locality=2)
    assert [0x8B] * 5 == [crb.get(LOC_STATE, n) for n in range(5)]
    assert [0, 0, 1, 0, 0] == [crb.get(LOC_STS, n) for n in range(5)]
    crb.put(LOC_CTRL, RELINQUISH, locality=2)
    assert (0x81, 0) == (crb.get(LOC_STATE), crb.get(LOC_STS, 2))


def test_byte_access_reaches_loc_ctrl() -> None:
    """SeaBIOS requests locality 0 with a byte."""
    crb = Crb()
    crb.write_at(LOC_CTRL, 1, 1)
    assert 0x83 == crb.get(LOC_STATE)


def test_highest_that_waits_is_next() -> None:
    """Requests of a TPM in use wait; when it is relinquished the highest locality has it."""
    crb = Crb()
    for locality in (3, 0, 2, 1):
        crb.put(LOC_CTRL, REQUEST, locality)
    order = []
    for _ in range(4):
        active = next(n for n in range(5) if crb.get(LOC_STS, n) & 1)
        order.append(active)
        crb.put(LOC_CTRL, RELINQUISH, active)
    assert [3, 2, 1, 0] == order
    assert 0x81 == crb.get(LOC_STATE)


def test_seize_takes_from_lower_localities_only(crb: Crb) -> None:
    """Who lost reads beenSeized until it requests anew; its command is abandoned."""
    crb.start(STARTUP)
    under_way = crb.tpm.number
    crb.put(LOC_CTRL, SEIZE, locality=3)
    assert (0x8F, 1, 2) == (crb.get(LOC_STATE), crb.get(LOC_STS, 3), crb.get(LOC_STS, 0))
    assert (2, 0, [("tpm", under_way)]) == (crb.get(STS), crb.get(START), crb.context.cancelled)
    crb.put(LOC_CTRL, SEIZE, locality=2)
    assert (0x8F, 0) == (crb.get(LOC_STATE), crb.get(LOC_STS, 3) & 2)
    crb.put(LOC_CTRL, REQUEST, locality=0)
    assert 0 == crb.get(LOC_STS, 0)


def test_inactive_locality_reads_no_data_and_changes_nothing(crb: Crb) -> None:
    """Only the active locality's page reaches command and response."""
    crb.start(STARTUP)
    crb.tpm.answer(response(b"secret"))
    assert b"\xff" * 16 == crb.buffer(16, locality=1)
    crb.fill(b"\0" * 16, locality=1)
    for register, value in ((REQ, IDLE), (START, 1)):
        crb.put(register, value, locality=1)
    assert response(b"secret") == crb.buffer(16)
    assert 0 == crb.get(STS)


def test_command_carries_its_locality() -> None:
    """The TPM is told which locality a command comes from."""
    crb = Crb()
    crb.put(LOC_CTRL, REQUEST, locality=4)
    crb.start(STARTUP, locality=4)
    assert ("execute", b"\4" + STARTUP) == crb.tpm.asked[-1]


def test_interface_lock_is_kept() -> None:
    """IntfSelLock is set by writing 1 and stays until reset; CRB is the only interface to select."""
    crb = Crb()
    crb.put(INTF_ID, 0x20000)
    assert 0x0002_5B11 == crb.get(INTF_ID)
    crb.put(INTF_ID, 0x80000)
    crb.put(INTF_ID, 0)
    assert 0x000A_5B11 == crb.get(INTF_ID)


SIZES = st.sampled_from([1, 2, 4, 8])


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 0xF80 // 8 - 1), SIZES, st.binary(min_size=8, max_size=8))))
def test_buffer_is_memory(writes: list[tuple[int, int, bytes]]) -> None:
    """While a command is received the buffer keeps bytes as RAM does, whatever the access sizes."""
    crb, expected = Crb(), bytearray(0xF80)
    crb.put(LOC_CTRL, REQUEST)
    crb.put(REQ, READY)
    for at, size, data in writes:
        crb.write_at(BUFFER + 8 * at, int.from_bytes(data[:size], "little"), size)
        expected[8 * at : 8 * at + size] = data[:size]
    read = b"".join(crb.read_at(BUFFER + at, 8).to_bytes(8, "little") for at in range(0, 0xF80, 8))
    assert bytes(expected) == read


STEPS = st.tuples(
    st.sampled_from([LOC_CTRL, REQ, CANCEL, START, BUFFER, BUFFER + 4, "answer", "die", "reset"]),
    st.integers(0, 7),
    st.integers(0, 4),
)


@settings(max_examples=150)
@given(st.lists(STEPS, max_size=40))
def test_any_driver_finds_the_state_diagram(steps: list[tuple[int | str, int, int]]) -> None:
    """START and tpmIdle exclude each other; at most one locality is granted, that of LOC_STATE; START is
    set exactly while the TPM owes a response.
    """
    crb, owes = Crb(), False
    for step, value, locality in steps:
        before = len(crb.context.asked)
        cancelled = len(crb.context.cancelled)
        if step == "answer":
            if owes:
                crb.tpm.answer(response())
            owes = False
        elif step == "die":
            if owes:
                crb.tpm.die()
            owes = False
        elif step == "reset":
            crb.device.reset()
            owes = False
        else:
            crb.put(int(step), value if step != BUFFER else 0x0000_0180, locality)
        owes |= any(kind == "execute" for _, _, kind, _ in crb.context.asked[before:])
        if step == LOC_CTRL and len(crb.context.cancelled) > cancelled:
            owes = False  # the locality is gone, and its command with it
        granted = [n for n in range(5) if crb.get(LOC_STS, n) & 1]
        state = crb.get(LOC_STATE)
        assert [state >> 2 & 7] * (state >> 1 & 1) == granted
        assert not (crb.get(START) and crb.get(STS) & 2)
        assert owes == bool(crb.get(START))
