from __future__ import annotations

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import IN_FLIGHT, NEW, NUMBERS, Ledger
from tests.protocol.messages import refusal

ERROR = NUMBERS["error"]
VCPUS = 2
vcpus = st.integers(0, VCPUS - 1)


def body(vcpu: int, sequence: int) -> bytes:
    """What this client sends as its exit of that number."""
    return b"exit %d of vcpu %d" % (sequence, vcpu)


class Books(RuleBasedStateMachine):
    """A guest, its client and a daemon, and what they know without a ledger.

    The model keeps what was executed as lists, in order: each number once, no gap.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(VCPUS)
        self.executed: list[list[int]] = [[] for _ in range(VCPUS)]
        self.applied: list[list[int]] = [[] for _ in range(VCPUS)]
        self.posted: list[int] = [0] * VCPUS
        self.replies: list[dict[int, bytes]] = [{} for _ in range(VCPUS)]
        self.running: list[bool] = [False] * VCPUS

    def last(self, vcpu: int) -> int:
        """The number of the last exit."""
        return len(self.executed[vcpu])

    @rule(vcpu=vcpus)
    def next_exit(self, vcpu: int) -> None:
        """The next exit runs, unless one is in flight or the machine stands."""
        sequence = self.last(vcpu) + 1
        if self.running[vcpu] or self.ledger.paused:
            code = ERROR["SEQUENCE"] if self.running[vcpu] else ERROR["STATE"]
            error = refusal(lambda: self.ledger.admit(vcpu, sequence, body(vcpu, sequence)))
            assert (code, self.running[vcpu], sequence) == (error.code, error.fatal, error.subject)
            return
        assert NEW is self.ledger.admit(vcpu, sequence, body(vcpu, sequence))
        self.executed[vcpu].append(sequence)
        self.running[vcpu] = True

    @rule(vcpu=vcpus)
    def resend(self, vcpu: int) -> None:
        """After a reconnect the last exit comes again: answered, awaited or dropped, never run."""
        sequence = self.last(vcpu)
        if not sequence:
            return
        if self.running[vcpu]:
            assert IN_FLIGHT is self.ledger.admit(vcpu, sequence, body(vcpu, sequence))
        elif sequence in self.replies[vcpu]:
            assert self.replies[vcpu][sequence] == self.ledger.admit(vcpu, sequence, body(vcpu, sequence))
        else:
            error = refusal(lambda: self.ledger.admit(vcpu, sequence, body(vcpu, sequence)))
            assert f"a reset of vCPU {vcpu} dropped this exit" == error.reason

    @rule(vcpu=vcpus, reply=st.binary(min_size=1, max_size=4))
    def complete(self, vcpu: int, reply: bytes) -> None:
        """What is in flight is answered."""
        if self.running[vcpu]:
            self.ledger.complete(vcpu, reply)
            self.replies[vcpu][self.last(vcpu)] = reply
            self.running[vcpu] = False

    @rule(vcpu=vcpus)
    def drop(self, vcpu: int) -> None:
        """A reset drops what is in flight and leaves what was answered."""
        self.ledger.drop(vcpu)
        self.running[vcpu] = False

    @rule(vcpu=vcpus, distance=st.integers(2, 5) | st.integers(-5, -1))
    def wrong_number(self, vcpu: int, distance: int) -> None:
        """A gap or a number long past runs nothing and names the last one."""
        sequence = self.last(vcpu) + distance
        if sequence < 0:
            return
        error = refusal(lambda: self.ledger.admit(vcpu, sequence, b""))
        assert ERROR["SEQUENCE"] == error.code
        assert f"the last of vCPU {vcpu} was {self.last(vcpu)}" == error.reason

    @rule(vcpu=vcpus)
    def other_body(self, vcpu: int) -> None:
        """The same number with another exit under it is neither run nor answered."""
        if self.last(vcpu):
            error = refusal(lambda: self.ledger.admit(vcpu, self.last(vcpu), body(vcpu, self.last(vcpu) + 1)))
            assert ERROR["SEQUENCE"] == error.code
            assert "another exit under this number" in error.reason

    @rule(vcpu=vcpus)
    def post(self, vcpu: int) -> None:
        """The next posted write is applied, unless an exit is in flight or the machine stands."""
        sequence = self.posted[vcpu] + 1
        if self.running[vcpu] or self.ledger.paused:
            code = ERROR["SEQUENCE"] if self.running[vcpu] else ERROR["STATE"]
            error = refusal(lambda: self.ledger.admit_posted(vcpu, sequence))
            assert (code, self.running[vcpu]) == (error.code, error.fatal)
            return
        assert self.ledger.admit_posted(vcpu, sequence)
        self.posted[vcpu] = sequence
        self.applied[vcpu].append(sequence)

    @rule(vcpu=vcpus, data=st.data())
    def post_again(self, vcpu: int, data: st.DataObject) -> None:
        """A posted write that was applied is not applied again; a gap is refused."""
        last = self.posted[vcpu]
        sequence = data.draw(st.integers(0, last + 3).filter(lambda number: number != last + 1))
        if 0 < sequence <= last:
            assert not self.ledger.admit_posted(vcpu, sequence)
        else:
            assert ERROR["SEQUENCE"] == refusal(lambda: self.ledger.admit_posted(vcpu, sequence)).code

    @precondition(lambda self: not self.ledger.paused)
    @rule()
    def pause(self) -> None:
        """PAUSE."""
        self.ledger.paused = True

    @precondition(lambda self: self.ledger.paused)
    @rule()
    def resume(self) -> None:
        """RESUME."""
        self.ledger.paused = False

    @invariant()
    def everything_ran_once_in_order(self) -> None:
        """No number ran twice, none was left out, and the ledger knows what is in flight."""
        for vcpu in range(VCPUS):
            assert list(range(1, self.last(vcpu) + 1)) == self.executed[vcpu]
            assert list(range(1, self.posted[vcpu] + 1)) == self.applied[vcpu]
            assert self.posted[vcpu] == self.ledger.posted(vcpu)
        flying = [(vcpu, self.last(vcpu)) for vcpu in range(VCPUS) if self.running[vcpu]]
        assert flying == list(self.ledger.in_flight())


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=40)


@pytest.mark.parametrize("sequence", [0, 2, 1 << 63])
def test_a_new_session_begins_with_one(sequence: int) -> None:
    """Neither 0 nor any other number is the first."""
    error = refusal(lambda: Ledger(1).admit(0, sequence, b"x"))

    assert (ERROR["SEQUENCE"], "exit.sequence", sequence) == (error.code, error.name, error.value)


@pytest.mark.parametrize(
    ("sent", "difference"),
    [(b"abd", "byte 2 was 0x63, is 0x64"), (b"ab", "3 bytes, now 2"), (b"", "3 bytes, now 0")],
)
def test_another_exit_under_a_number_is_told_apart(sent: bytes, difference: str) -> None:
    """The error says where the bodies differ."""
    ledger = Ledger(1)
    ledger.admit(0, 1, b"abc")

    with pytest.raises(ProtocolError, match=f"vCPU 0 sent another exit under this number .{difference}"):
        ledger.admit(0, 1, sent)


def test_one_outstanding_exit() -> None:
    """A vCPU waits for its completion before its next exit."""
    ledger = Ledger(1)
    ledger.admit(0, 1, b"a")

    with pytest.raises(ProtocolError, match="vCPU 0 has exit 1 in flight"):
        ledger.admit(0, 2, b"b")


def test_an_exit_that_was_dropped_has_no_reply() -> None:
    """Least of all that of the exit before it."""
    ledger = Ledger(1)
    ledger.admit(0, 1, b"a")
    ledger.complete(0, b"reply to a")
    ledger.admit(0, 2, b"b")
    ledger.drop(0)

    with pytest.raises(ProtocolError, match="a reset of vCPU 0 dropped this exit"):
        ledger.admit(0, 2, b"b")
    assert NEW is ledger.admit(0, 3, b"c")


def test_a_reply_without_an_exit_is_our_defect() -> None:
    """Completing twice is not the peer's mistake: it ends loudly."""
    ledger = Ledger(1)
    ledger.admit(0, 1, b"a")
    ledger.complete(0, b"reply")

    with pytest.raises(AssertionError, match="vCPU 0 has no exit in flight"):
        ledger.complete(0, b"again")
