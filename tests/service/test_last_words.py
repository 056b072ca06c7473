"""What a daemon leaves behind that had to abort, and what its successor makes of it."""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmiod.core.watchdog import Watchdog
from mmiod.errors import ConfigError
from mmiod.machine.mark import Mark
from mmiod.service import last_words, memory
from mmiod.service.last_words import DeadManSwitch, LastWords, read, write
from mmiod.service.succession import succeed
from tests.machine.test_restart import rig

NAMES = {"vm0": ("uart0", "rtc"), "vm1": ("uart0",)}
ROOT = Path(__file__).parents[2]


@pytest.fixture(name="control")
def _control(tmp_path: Path) -> Iterator[Path]:
    """The path of a control socket; the handler of the signal is ours until the end."""
    yield tmp_path / "control"
    faulthandler.unregister(signal.SIGPROF)


def written(control: Path) -> DeadManSwitch:
    """A switch whose descriptor ends with its owner."""
    switch = write(control, NAMES, 1.0)
    os.close(switch.stacks)
    return switch


def test_who_ran_is_read_by_name(control: Path) -> None:
    """The numbers in the page, VM by VM, once there are stacks; a new switch begins empty."""
    switch = written(control)
    switch.running(0)[0] = 2
    assert None is read(control)
    control.with_name("control.stacks").write_text("Thread 1")
    assert LastWords((("vm0", "rtc"),), "Thread 1") == read(control)
    switch.running(1)[0] = 1
    assert LastWords((("vm0", "rtc"), ("vm1", "uart0")), "Thread 1") == read(control)
    written(control)
    assert None is read(control)


def test_nobody_was_there_before(control: Path) -> None:
    """No file is no reason to complain."""
    assert None is read(control)
    faulthandler.register(signal.SIGPROF)


@pytest.mark.parametrize("data", [b"", bytes(5000), bytes(4096) + b"{", b"\xff" * 4096 + b'{"vm0": ["a"]}'])
def test_page_that_makes_no_sense_names_nobody(control: Path, data: bytes) -> None:
    """The stacks are still told."""
    written(control)
    control.with_name("control.hooks").write_bytes(data)
    control.with_name("control.stacks").write_bytes(b"Thread \xff")
    assert LastWords((), "Thread \N{REPLACEMENT CHARACTER}") == read(control)


def test_long_stacks_are_cut(control: Path) -> None:
    """A file that somebody filled is not read to its end."""
    written(control)
    control.with_name("control.stacks").write_bytes(b"x" * (last_words.MAX_STACKS + 1))
    found = read(control)
    assert found is not None
    assert last_words.MAX_STACKS == len(found.stacks)


def test_device_that_ended_the_predecessor_is_not_tried_again(control: Path) -> None:
    """It is in quarantine without a date; a name that is not there any more is passed over."""
    switch = write(control, {"vm": ("dev", "other"), "gone": ("dev",)}, 1.0)
    switch.running(0)[0] = switch.running(1)[0] = 1
    control.with_name("control.stacks").write_text("Thread 1")
    os.close(switch.stacks)
    made, host, _ = rig()
    watchdog = Watchdog([made.machine.mark], 100_000_000)

    succeed(control, {"vm": made.machine}, watchdog)

    reason = "HookLostError: its hook did not return, and the daemon had to be aborted: see daemon_aborted"
    assert (reason, {}) == (host.failure, made.machine.backoff.due)
    assert [("device_quarantined", {"device": "dev", "reason": reason})] == made.events
    assert isinstance(watchdog.lifeline, DeadManSwitch)
    assert 3.0 == watchdog.lifeline.patience_s
    os.close(watchdog.lifeline.stacks)


def test_page_says_which_devices_hook_runs(control: Path) -> None:
    """During a hook it is that device's number, within a bridge the inner one's; else 0."""
    made, host, _ = rig()
    watchdog = Watchdog([made.machine.mark], 1_000_000_000)
    succeed(control, {"vm": made.machine}, watchdog)
    running = made.machine.mark.running
    seen = []
    plain = host.inputs

    def noting(*arguments: object) -> object:
        seen.append(running[0])
        return plain["reset"](*arguments)

    host.inputs = {**plain, "reset": noting}
    host.reset()
    assert ([1], 0) == (seen, running[0])
    assert isinstance(watchdog.lifeline, DeadManSwitch)
    assert 10.0 == watchdog.lifeline.patience_s
    os.close(watchdog.lifeline.stacks)


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """As any other mistake of the configuration."""
    with pytest.raises(ConfigError, match=r"control\.hooks: No such file or directory"):
        succeed(tmp_path / "none" / "control", {}, Watchdog([], 1))


def test_timer_that_is_not_wound_up_dumps_and_ends_the_process(tmp_path: Path) -> None:
    """By the kernel: no Python needs to run for it.  One that rests does nothing."""
    program = (
        "import sys; from pathlib import Path; from mmiod.service import last_words as l\n"
        f"t = l.write(Path({str(tmp_path / 'c')!r}), {{}}, 0.05)\n"
        "t.wind_up(); t.rest()\n"
        "sum(range(10_000_000))\n"
        "print('rested', flush=True)\n"
        "t.wind_up()\n"
        "while True: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ("rested\n", -signal.SIGPROF) == (done.stdout, done.returncode)
    assert 'File "<string>", line 7' in (tmp_path / "c.stacks").read_text()


class Fake:
    """A lifeline that counts."""

    def __init__(self) -> None:
        self.wound = self.rested = self.aborted = 0

    def wind_up(self) -> None:
        """Count."""
        self.wound += 1

    def rest(self) -> None:
        """Count."""
        self.rested += 1

    def abort(self) -> None:
        """Count."""
        self.aborted += 1


def test_hook_that_no_interruption_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten interruptions, one deadline apart, then the end; a hook that began meanwhile has its own ten."""
    now, lifeline, mark = 1, Fake(), Mark()
    monkeypatch.setattr("mmiod.core.watchdog.perf_counter_ns", lambda: now)
    monkeypatch.setattr("mmiod.machine.mark.perf_counter_ns", lambda: now)
    monkeypatch.setattr("mmiod.core.watchdog._RAISE", lambda *_: None)
    watchdog = Watchdog([mark], 100, thread=7, lifeline=lifeline, cpu=lambda: now)
    outer = mark.enter("dev")
    watchdog.note()
    for _ in range(10):
        now += 100
        watchdog.look(mark)
    assert 0 == lifeline.aborted
    mark.leave(outer)
    mark.enter("dev")
    watchdog.note()
    for _ in range(10):
        now += 100
        watchdog.look(mark)
    assert 0 == lifeline.aborted
    now += 100
    watchdog.look(mark)
    assert 1 == lifeline.aborted


def test_freed_memory_is_kept_for_the_next_request() -> None:
    """A block of 128 KiB is got and freed a hundred times, with few page faults."""
    program = (
        "import resource, mmiod.service.memory as memory\n"
        "memory.keep_freed()\n"
        "def use(): return len(bytes(1 << 17) + bytes(1 << 17))\n"
        "use(); before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(100): use()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    command = [sys.executable, "-c", program]
    assert int(subprocess.run(command, capture_output=True, check=True).stdout) < 50


def test_core_dumps_have_no_memory(tmp_path: Path) -> None:
    """The filter is set to nothing; a kernel without it is no reason not to start."""
    memory.leave_out_of_cores(tmp_path / "filter")
    assert "0" == (tmp_path / "filter").read_text()
    memory.leave_out_of_cores(tmp_path / "none" / "filter")
