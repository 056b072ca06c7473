"""TPM with FIFO interface (TIS), by the PTP's registers and state diagram ("FIFO Interface")."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from devices.tpm.tis import TpmTis
from mmiod.testing.harness import Harness
from tests.devices.tpms import COMMAND_SIZE, FAILURE, STARTUP, FakeTpm, command, response

ACCESS, STS, FIFO, XFIFO = 0x00, 0x18, 0x24, 0x80
REQUEST_USE, PENDING, SEIZE, BEEN_SEIZED, ACTIVE = 0x02, 0x04, 0x08, 0x10, 0x20
RETRY, EXPECT, AVAIL, GO, READY, CANCEL = 1 << 1, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 24
SHOWN = EXPECT | AVAIL | READY
FREE = 0x81
"""TPM_ACCESS with tpmRegValidSts and tpmEstablishment."""
PAGE = 0x1000
LONGEST = 4096
"""Bytes of a command or response."""


class Tis(Harness[TpmTis]):
    """The device as a driver sees it."""

    def __init__(self) -> None:
        super().__init__(TpmTis)
        self.tpm = FakeTpm(self)

    def access(self, locality: int = 0) -> int:
        """TPM_ACCESS."""
        return self.read_at(locality * PAGE + ACCESS)

    def claim(self, bits: int, locality: int = 0) -> None:
        """Write TPM_ACCESS."""
        self.write_at(locality * PAGE + ACCESS, bits)

    def sts(self, locality: int = 0) -> int:
        """TPM_STS."""
        return self.read_at(locality * PAGE + STS, 4)

    def control(self, bits: int, locality: int = 0) -> None:
        """Write TPM_STS."""
        self.write_at(locality * PAGE + STS, bits, 4)

    def burst(self) -> int:
        """The burst count."""
        return self.sts() >> 8 & 0xFFFF

    def push(self, data: bytes, size: int = 1, register: int = FIFO) -> None:
        """Write to the FIFO."""
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            self.write_at(register, int.from_bytes(piece, "little"), len(piece))

    def pull(self, length: int, size: int = 1, register: int = FIFO) -> bytes:
        """Read from the FIFO."""
        return b"".join(self.read_at(register, size).to_bytes(size, "little") for _ in range(length // size))

    def start(self, data: bytes) -> None:
        """Send a command and let it go."""
        self.control(READY)
        self.push(data)
        self.control(GO)


@pytest.fixture
def tis() -> Tis:
    """A TPM whose locality 0 is active."""
    tis = Tis()
    tis.claim(REQUEST_USE)
    return tis


def test_registers_after_reset() -> None:
    """PTP, reset values: valid, no locality, a FIFO interface of TPM 2.0, ones where nobody is active."""
    tis = Tis()
    assert [FREE] * 5 == [tis.access(n) for n in range(5)]
    assert 0xFFFF_FFFF == tis.sts()
    assert 0xFF == tis.read_at(FIFO)
    assert 0x3000_0600 == tis.read_at(0x14, 4)
    assert 0x0000_2100 == tis.read_at(0x30, 4)
    assert (0x0001_1014, 1) == (tis.read_at(0xF00, 4), tis.read_at(0xF04, 4))
    assert [0, 0, 0] == [tis.read_at(0x08, 4), tis.read_at(0x0C), tis.read_at(0x10, 4)]
    assert 0xFFFF_FFFF == tis.read_at(0x40, 4)


def test_command_runs_through_all_states(tis: Tis) -> None:
    """Idle, Ready, Reception until the last byte, Execution, Completion until the last byte, Ready."""
    assert (0, LONGEST) == (tis.sts() & SHOWN, tis.burst())
    tis.control(READY)
    assert (READY, LONGEST) == (tis.sts() & SHOWN, tis.burst())
    tis.push(STARTUP[:-1])
    assert (EXPECT, LONGEST - 11) == (tis.sts() & SHOWN, tis.burst())
    tis.push(STARTUP[-1:])
    assert 0 == tis.sts() & SHOWN
    tis.control(GO)
    assert ("execute", b"\0" + STARTUP) == tis.tpm.asked[-1]
    assert (0, LONGEST - 12) == (tis.sts() & SHOWN, tis.burst())
    tis.tpm.answer(response(b"abc"))
    assert (AVAIL, 13) == (tis.sts() & SHOWN, tis.burst())
    assert response(b"abc") == tis.pull(13)
    assert (0, LONGEST - 13) == (tis.sts() & SHOWN, tis.burst())
    assert b"\xff" == tis.pull(1)
    tis.control(READY)
    assert READY == tis.sts() & SHOWN


def test_status_says_tpm_2_0_and_what_is_valid(tis: Tis) -> None:
    """The family is 01b; stsValid is set when there is something to expect or to read."""
    tis.control(READY)
    assert (1, 0) == (tis.sts() >> 26, tis.sts() & 0x80)
    tis.push(STARTUP[:1])
    assert (1, 0x80) == (tis.sts() >> 26, tis.sts() & 0x80)


def test_more_than_one_request_is_none(tis: Tis) -> None:
    """As in QEMU: commandReady with tpmGo changes nothing, nor do writes to the hardware's locality."""
    tis.control(READY | GO)
    assert 0 == tis.sts() & SHOWN
    tis.claim(ACTIVE | REQUEST_USE)
    assert FREE == tis.access()
    tis.claim(REQUEST_USE, 4)
    assert [FREE] * 5 == [tis.access(n) for n in range(5)]


def test_go_needs_a_whole_command(tis: Tis) -> None:
    """Before the last byte, and without any, tpmGo does nothing."""
    tis.control(GO)
    tis.control(READY)
    tis.control(GO)
    tis.push(STARTUP[:-1])
    tis.control(GO)
    assert [("initialize", b"")] == tis.tpm.asked


def test_bytes_behind_the_command_are_dropped(tis: Tis) -> None:
    """The header says how many bytes there are."""
    tis.start(STARTUP + b"more")
    assert ("execute", b"\0" + STARTUP) == tis.tpm.asked[-1]


def test_command_in_idle_is_not_taken(tis: Tis) -> None:
    """Without commandReady the FIFO takes nothing."""
    tis.push(STARTUP)
    tis.control(GO)
    assert [("initialize", b"")] == tis.tpm.asked


def test_response_can_be_read_again(tis: Tis) -> None:
    """ResponseRetry begins with the first byte."""
    tis.start(STARTUP)
    tis.tpm.answer(response(b"abc"))
    tis.pull(5)
    tis.control(RETRY)
    assert response(b"abc") == tis.pull(13)


@pytest.mark.parametrize("when", ["reception", "execution", "completion"])
def test_command_ready_aborts(tis: Tis, when: str) -> None:
    """CommandReady drops what is there; a response that comes late reaches nobody."""
    tis.control(READY)
    tis.push(STARTUP if when != "reception" else STARTUP[:3])
    if when != "reception":
        tis.control(GO)
    number = tis.tpm.number
    if when == "completion":
        tis.tpm.answer(response())
    tis.control(READY)
    assert (READY, LONGEST) == (tis.sts() & SHOWN, tis.burst())
    assert ([("tpm", number)] if when == "execution" else []) == tis.context.cancelled
    tis.reply("tpm", number, response())
    assert READY == tis.sts() & SHOWN


def test_cancel_still_has_a_response(tis: Tis) -> None:
    """CommandCancel, by a byte access to the register's last byte."""
    tis.start(STARTUP)
    tis.write_at(STS + 3, CANCEL >> 24)
    assert [("tpm", tis.tpm.number)] == tis.context.cancelled
    tis.tpm.answer(response())
    assert AVAIL == tis.sts() & SHOWN


@pytest.mark.parametrize("length", [0, 9, LONGEST + 1, 0xFFFF_FFFF])
def test_length_that_cannot_be_is_answered_here(tis: Tis, length: int) -> None:
    """A commandSize below the header or beyond the FIFO: TPM_RC_COMMAND_SIZE, and no request."""
    tis.control(READY)
    tis.push(STARTUP[:2] + length.to_bytes(4, "big") + bytes(LONGEST), size=2)
    tis.control(GO)
    assert COMMAND_SIZE == tis.pull(10)
    assert [("initialize", b"")] == tis.tpm.asked


def test_dead_tpm_answers_failure_until_reset(tis: Tis) -> None:
    """Failure mode: TPM_RC_FAILURE for each command, nobody is asked, one event."""
    tis.start(STARTUP)
    tis.tpm.die()
    assert FAILURE == tis.pull(10)
    asked = tis.tpm.asked
    tis.start(STARTUP)
    assert (FAILURE, asked) == (tis.pull(10), tis.tpm.asked)
    assert ["tpm_failed"] == [event for event, _ in tis.context.events]
    tis.device.reset()
    tis.claim(REQUEST_USE)
    tis.start(STARTUP)
    assert ("execute", b"\0" + STARTUP) == tis.tpm.asked[-1]


# --- localities (TPM_ACCESS_x) -------------------------------------------------------------------


def test_use_is_requested_and_relinquished() -> None:
    """A free TPM is active at once; others wait, are seen to wait, and follow by height."""
    tis = Tis()
    tis.claim(REQUEST_USE, 1)
    tis.claim(REQUEST_USE, 0)
    tis.claim(REQUEST_USE, 3)
    waits = FREE | REQUEST_USE | PENDING
    assert [waits, FREE | ACTIVE | PENDING, FREE | PENDING, waits, FREE | PENDING] == [
        tis.access(n) for n in range(5)
    ]
    tis.claim(ACTIVE, 1)
    assert FREE | ACTIVE | PENDING == tis.access(3)
    tis.claim(ACTIVE, 0)  # no longer waits
    tis.claim(ACTIVE, 3)
    assert [FREE] * 5 == [tis.access(n) for n in range(5)]


def test_seize_takes_from_lower_localities_only(tis: Tis) -> None:
    """Who lost reads beenSeized until it writes 1 there; its command is abandoned."""
    tis.start(STARTUP)
    number = tis.tpm.number
    tis.claim(SEIZE, 2)
    assert (FREE | ACTIVE, FREE | BEEN_SEIZED) == (tis.access(2), tis.access(0))
    assert [("tpm", number)] == tis.context.cancelled
    assert 0 == tis.sts(2) & SHOWN
    tis.claim(SEIZE, 1)
    assert ACTIVE == tis.access(2) & ACTIVE
    tis.claim(BEEN_SEIZED, 0)
    assert 0 == tis.access(0) & BEEN_SEIZED


def test_inactive_locality_reads_ones_and_changes_nothing(tis: Tis) -> None:
    """TPM_STS and the FIFO of other localities read ones; writes there vanish."""
    tis.start(STARTUP)
    tis.tpm.answer(response(b"secret"))
    assert (0xFFFF_FFFF, 0xFF) == (tis.sts(1), tis.read_at(PAGE + FIFO))
    tis.control(READY, 1)
    tis.write_at(PAGE + FIFO, 0)
    assert response(b"secret") == tis.pull(16)


@settings(max_examples=50)
@given(
    payload=st.binary(max_size=200),
    sizes=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])),
    register=st.sampled_from([FIFO, XFIFO, XFIFO + 0x20]),
)
def test_sizes_and_ports_of_the_fifo_do_not_matter(
    payload: bytes, sizes: tuple[int, int], register: int
) -> None:
    """DATA_FIFO and XDATA_FIFO are one FIFO; an access moves as many bytes as it has."""
    tis = Tis()
    tis.claim(REQUEST_USE)
    tis.control(READY)
    tis.push(command(payload), sizes[0], register)
    tis.control(GO)
    assert ("execute", b"\0" + command(payload)) == tis.tpm.asked[-1]
    tis.tpm.answer(response(payload))
    length = len(response(payload))
    padded = -(-length // sizes[1]) * sizes[1]
    assert response(payload).ljust(padded, b"\xff") == tis.pull(padded, sizes[1], register)


STEPS = st.tuples(
    st.sampled_from(["access", "sts", "fifo", "answer", "die"]), st.integers(0, 7), st.integers(0, 4)
)


@settings(max_examples=150)
@given(st.lists(STEPS, max_size=60))
def test_any_driver_finds_the_state_diagram(steps: list[tuple[str, int, int]]) -> None:
    """At most one locality is active, and of commandReady, Expect and dataAvail at most one is set."""
    tis = Tis()
    for step, value, locality in steps:
        if step == "access":
            tis.claim(1 << value, locality)
        elif step == "sts":
            tis.control(1 << value | (value & 1) << 24, locality)
        elif step == "fifo":
            tis.write_at(locality * PAGE + FIFO, 0x0A00_0080 >> 8 * (value & 3), 4)
        elif tis.tpm.asked[-1][0] == "execute":
            tis.tpm.answer(response()) if step == "answer" else tis.tpm.die()
        active = [n for n in range(5) if tis.access(n) & ACTIVE]
        assert len(active) <= 1
        for n in active:
            assert (tis.sts(n) & SHOWN) in {0, READY, EXPECT, AVAIL}
        assert all(tis.sts(n) == 0xFFFF_FFFF for n in range(5) if n not in active)
