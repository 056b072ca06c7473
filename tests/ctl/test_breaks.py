"""`mmioctl break`, as a process with its standard input, against a served control socket."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest
import trio
import trio.lowlevel
from attrs import define

from mmiod.core.pump import Pump
from mmiod.ctl.__main__ import main
from mmiod.ctl.breaks import Unreadable, request
from tests.control.small_daemon import SmallDaemon, served
from tests.control.test_breaks import LCR, LSR, send
from tests.ctl.test_main import ROOT, Watching

PATIENCE_S = 60


@define(eq=False)
class Talk:
    """A running `mmioctl break`, introduced."""

    process: trio.Process
    watching: Watching

    async def line(self) -> str:
        """Of output."""
        with trio.fail_after(PATIENCE_S):
            return await self.watching.line()

    async def remark(self) -> str:
        """Of standard error."""
        with trio.fail_after(PATIENCE_S):
            return await self.watching.remark()

    async def say(self, text: str) -> None:
        """A line of input."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(text.encode() + b"\n")

    async def end(self) -> int:
        """No more lines; its exit code."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        with trio.fail_after(PATIENCE_S):
            return await self.process.wait()


@pytest.fixture
def daemon() -> SmallDaemon:
    """A daemon whose vm0 has a session of two vCPUs."""
    daemon = SmallDaemon()
    daemon.attach("vm0", Pump(threading.Event()))
    return daemon


@asynccontextmanager
async def breaking(daemon: SmallDaemon, path: Path, *arguments: str) -> AsyncIterator[Talk]:
    """`mmioctl break` while the daemon serves."""
    async with served(daemon, path), trio.open_nursery() as nursery:
        command = [sys.executable, "-m", "mmiod.ctl", "--socket", str(path), "break", *arguments]
        start = partial(trio.run_process, stdin=PIPE, stdout=PIPE, stderr=PIPE, check=False, cwd=ROOT)
        process = await nursery.start(start, command)
        yield Talk(process, Watching(process))
        nursery.cancel_scope.cancel()


async def test_stops_are_continued_and_answered(daemon: SmallDaemon, tmp_path: Path) -> None:
    """A line each; what is not understood or does not fit changes nothing."""
    async with breaking(daemon, tmp_path / "control", "vm0/uart0.l*") as talk:
        assert "stopping accesses of vm0/uart0.l*; each goes on by itself after 30s" == await talk.remark()
        help_ = await talk.remark()
        write = send(daemon, LCR, 1, 0x83)
        assert "#1 vm0/0 uart0 LCR <- 0x83 WLS=3 DLAB=1 pio:0x3fb 1B" == await talk.line()
        await talk.say("what")
        assert help_ == await talk.remark()
        await talk.say("")
        assert "#1 continued" == await talk.line()
        read = send(daemon, LSR, 2)
        assert "#2 vm0/0 uart0 LSR -> 0x61 pio:0x3fd 1B" == await talk.line()
        await talk.say("0x100")
        assert "0x100 does not fit into 1 bytes" == await talk.remark()
        await talk.say("0x20")
        assert "#2 answered by 0x20" == await talk.line()
        assert [1, 1] == [len(one.got) for one in (write, read)]
        await talk.say("q")
        standing = send(daemon, LSR, 3)
        await talk.line()
        assert 0 == await talk.end()
        with trio.fail_after(PATIENCE_S):
            await standing.came.wait()


async def test_objects_for_programs(daemon: SmallDaemon, tmp_path: Path) -> None:
    """With --json, ended after --count stops, in what order ever lines come."""
    arguments = ("--json", "--count", "2", "--vm", "vm0", "uart0", "write", "==", "3")
    async with breaking(daemon, tmp_path / "control", *arguments) as talk:
        await talk.remark()
        await talk.say("continue")
        await talk.say("0")
        for sequence, value in ((1, 2), (2, 3)):
            send(daemon, LCR, sequence, value)
        found = [json.loads(await talk.line()) for _ in range(2)]
        send(daemon, LCR, 3, 3)
        found += [json.loads(await talk.line()) for _ in range(2)]
        assert 0 == await talk.end()
    assert [("lcr", 3, {"WLS": 3, "STB": 0, "DLAB": 0}), None] * 2 == [
        one["stop"] and (one["stop"]["register"], one["stop"]["value"], one["stop"]["fields"])
        for one in found
    ]
    assert [
        {"number": 1, "how": "continued", "value": None},
        {"number": 2, "how": "answered", "value": 0},
    ] == [one["over"] for one in found if one["over"]]


async def test_end_of_input_lets_go(daemon: SmallDaemon, tmp_path: Path) -> None:
    """Nobody is there to decide: the access goes on, and code 0."""
    async with breaking(daemon, tmp_path / "control", "vm0/uart0") as talk:
        await talk.remark()
        replies = send(daemon, LCR, 1, 3)
        await talk.line()
        assert 0 == await talk.end()
        with trio.fail_after(PATIENCE_S):
            await replies.came.wait()
        assert [] == daemon.machines["vm0"].breaks.stops


async def test_what_ends_by_itself_is_told(daemon: SmallDaemon, tmp_path: Path) -> None:
    """Without a line from here: another client lets it go, or its time is over."""
    async with breaking(daemon, tmp_path / "control", "vm0/uart0", "--timeout", "60") as talk:
        assert "after 60s" in await talk.remark()
        await talk.remark()
        send(daemon, LCR, 1, 3)
        await talk.line()
        daemon.machines["vm0"].breaks.let_go("timeout")
        assert "#1 went on by itself: its time was over" == await talk.line()
        daemon.settle("vm0")
        send(daemon, LCR, 2, 3)
        await talk.line()
        arguments = ["--socket", str(tmp_path / "control"), "continue", "vm0/uart0"]
        assert 0 == await trio.to_thread.run_sync(main, arguments)
        assert "#2 continued" == await talk.line()
        assert 1 == await trio.to_thread.run_sync(main, arguments)  # nothing stands any more


async def test_an_answer_from_another_terminal_that_does_not_fit(
    daemon: SmallDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, and the access stands on."""
    path = tmp_path / "control"
    async with breaking(daemon, path, "vm0/uart0.lsr") as talk:
        await talk.remark()
        send(daemon, LSR, 1)
        assert "LSR ->" in await talk.line()
        arguments = ["--socket", str(path), "continue", "vm0/uart0", "0x100"]
        assert 1 == await trio.to_thread.run_sync(main, arguments)
        assert 1 == len(daemon.machines["vm0"].breaks.stops)
    assert "0x100 does not fit into the access that stands at vm0/uart0\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "words", "expected"),
    [
        ("uart0", [], {"device": "uart0"}),
        ("vm1/uart0.LCR", ["w"], {"vm": "vm1", "device": "uart0", "register": "LCR", "direction": "write"}),
        ("nic.*", ["read", "==0x10"], {"device": "nic", "register": "*", "direction": "read", "value": 16}),
        ("nic", ["==", "7"], {"device": "nic", "value": 7}),
    ],
)
def test_command_line(target: str, words: list[str], expected: dict[str, object]) -> None:
    """VM, device, register, direction and value, each of the last three if it is there."""
    found = request(target, words, "vm0", None)
    assert {"vm": "vm0", **expected} == {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["maybe"], "'maybe' is neither read nor write nor == VALUE"),
        (["=="], "'==' is neither"),
        (["==", "x"], "'x' is no number, such as 16 or 0x10"),
        (["read", "7"], "'7' is neither"),
        (["==", "1", "2"], "'== 1 2' is neither"),
        (["==", "-1"], "-1 is not within 0..0xffffffffffffffff"),
        (["==", "0x10000000000000000"], "0x10000000000000000 is not within"),
    ],
)
def test_command_line_that_is_wrong(words: list[str], message: str) -> None:
    """It is named."""
    with pytest.raises(Unreadable, match=re.escape(message)):
        request("uart0", words, None, None)


@pytest.mark.parametrize(
    ("option", "value", "limits"),
    [
        ("--timeout", "0", "0.001 to 600"),
        ("--timeout", "601", "0.001 to 600"),
        ("--timeout", "nan", "0.001 to 600"),
        ("--timeout", "soon", "0.001 to 600"),
        ("--count", "0", "1 to inf"),
        ("--count", "1.5", "1 to inf"),
    ],
)
def test_option_that_is_wrong(
    option: str, value: str, limits: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is named, with what there may be."""
    with pytest.raises(SystemExit) as ended:
        main(["break", "uart0", option, value])
    assert 2 == ended.value.code
    assert f"argument {option}: {value!r} is no number from {limits}\n" in capsys.readouterr().err


async def test_refusals(daemon: SmallDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In words, with the names that there are."""
    async with served(daemon, tmp_path / "control"):
        arguments = ["--socket", str(tmp_path / "control"), "break", "vm0/uart0.mcr"]
        assert 1 == await trio.to_thread.run_sync(main, arguments)
    expected = "mmioctl: vm0/uart0 has no register 'mcr'; there are: rbr, lcr, lsr, broken\n"
    assert expected == capsys.readouterr().err
