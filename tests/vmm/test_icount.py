from __future__ import annotations

import pytest

from mmiod.protocol.exit import replies
from mmiod.values import AcknowledgeExit, Completion, DecodedExit, Exit, HaltExit, TickExit, Values
from tests.vmm.fake import EXIT, IVT_20, FakeDaemon, Run, firmware, guest, ones, ports

pytestmark = pytest.mark.needs("unicorn")

START = "bc0070" + IVT_20
"""With the jump at the reset vector four instructions."""


def times(run: Run) -> list[tuple[type[Exit], int]]:
    """(kind, guest_ns) of all exits."""
    return [(type(exit_), guest_ns) for exit_, guest_ns in run.daemon.exits]


@pytest.mark.parametrize("shift", [0, 3, 10])
def test_guest_time_counts_instructions(shift: int) -> None:
    """2^N ns for each instruction, the one that exits included."""
    run = guest(firmware("90 90 e680 90 e681" + EXIT), FakeDaemon(), shift=shift)

    assert run.run() == 0

    assert [(DecodedExit, count << shift) for count in (4, 6, 8)] == times(run)


def test_a_tick_comes_exactly_at_the_deadline() -> None:
    """The instruction at the deadline has not run; afterwards each is counted once."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        daemon.deadline_ns = 100 * 8 - 3 if isinstance(exit_, DecodedExit) else 1 << 60
        return ones(daemon, exit_)

    # 200 times inc bx, then bx to a port: 2 + 200 instructions and the OUT
    code = "e680" + "43" * 200 + "89d8 e780" + EXIT
    run = guest(firmware(code), FakeDaemon(answer), shift=3)

    assert run.run() == 0

    ticks = [(kind, guest_ns // 8) for kind, guest_ns in times(run) if guest_ns // 8 < 300]
    assert [(DecodedExit, 2), (TickExit, 100), (DecodedExit, 204)] == ticks[:3]
    assert (200).to_bytes(2, "little") == ports(run)[1][2]


def test_a_deadline_inside_a_rep_stops_at_an_iteration() -> None:
    """Each iteration of a REP is an instruction, and finding CX zero another."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        daemon.deadline_ns = 10 if isinstance(exit_, DecodedExit) else 1 << 60
        return ones(daemon, exit_)

    code = "e680 bf0010 b91400 f3aa e681" + EXIT  # rep stosb of 20 bytes
    run = guest(firmware(code), FakeDaemon(answer), shift=0)

    assert run.run() == 0

    assert [(DecodedExit, 2), (TickExit, 10), (DecodedExit, 4 + 20 + 1 + 1)] == times(run)[:3]


def test_a_halt_moves_time_on() -> None:
    """What the completion says is added to all that follows."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        daemon.interrupt = isinstance(exit_, HaltExit)
        if isinstance(exit_, AcknowledgeExit):
            return Values(b"\x20")
        return Values() if isinstance(exit_, HaltExit) else ones(daemon, exit_)

    run = guest(firmware(START + "fb f4 e680" + EXIT, at_200="cf"), FakeDaemon(answer, halt_ns=5000), shift=0)

    assert run.run() == 0

    assert [(HaltExit, 6), (AcknowledgeExit, 5006), (DecodedExit, 5008)] == times(run)[:3]


def test_time_stamps_are_guest_time() -> None:
    """RDTSC reads guest time in nanoseconds, not the host's counter."""
    run = guest(firmware("0f31 66e780 6689d0 66e780" + EXIT), FakeDaemon(), shift=4)

    assert run.run() == 0

    low, high = (int.from_bytes(data, "little") for _, _, data in ports(run))
    assert (2 << 4, 0) == (low, high)


def test_intr_does_not_count_only_completions_do() -> None:
    """A message that arrives whenever it arrives must not move an interrupt."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        daemon.later.append(replies.intr(0, level=True))
        return ones(daemon, exit_)

    run = guest(firmware(START + "fb e680 90 90 e681" + EXIT), FakeDaemon(answer), shift=0)

    assert run.run() == 0
    assert [DecodedExit] * 3 == [kind for kind, _ in times(run)]


def test_two_runs_are_the_same() -> None:
    """A loop with a timer that interrupts every 1000 ns: the same exits at the same times."""

    def answer(daemon: FakeDaemon, exit_: Exit) -> Completion | None:
        if isinstance(exit_, TickExit):
            daemon.interrupt = True
            daemon.deadline_ns += 1000
        elif isinstance(exit_, AcknowledgeExit):
            daemon.interrupt = False
            return Values(b"\x20")
        return ones(daemon, exit_)

    # count port writes in the handler; the loop ends when the handler ran 20 times
    code = START + "31db fb 43 83fa14 72fa" + EXIT
    handler = "42 89d8 e780 cf"
    traces = []
    for _ in range(2):
        daemon = FakeDaemon(answer, deadline_ns=1000)
        run = guest(firmware("e690 31d2" + code, at_200=handler), daemon, shift=1)
        assert run.run() == 0
        traces.append(daemon.exits)

    assert traces[0] == traces[1]
    assert 20 == sum(isinstance(exit_, AcknowledgeExit) for exit_, _ in traces[0])
    ticks = [guest_ns for exit_, guest_ns in traces[0] if isinstance(exit_, TickExit)]
    assert [1000 * n for n in range(1, 21)] == ticks
