"""`mmioctl break`: accesses that stand, and what to do with them, a line each from standard input."""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
from collections.abc import Callable, Iterator
from math import inf, nan
from typing import Final

from attrs import define, field

from mmiod.ctl.client import Client, Ended, Object, Refused
from mmiod.ctl.text import duration, fields, hexadecimal, number

SHORTEST_S: Final = 0.001
LONGEST_S: Final = 600
WORDS: Final = {"read": "read", "r": "read", "write": "write", "w": "write"}
CONTINUE: Final = frozenset({"", "c", "continue"})
QUIT: Final = frozenset({"q", "quit"})
PROMPT: Final = "Enter: continue; a number: answer it instead of the device, a write is dropped; q: end"
TEXT: Final = "stop a vCPU where it accesses a device, and let it go on or answer it"
HELP: Final = """\
  mmioctl break uart0.IER write            mmioctl break vm0/tpm.* read == 0
while an access stands, a line from standard input says what becomes of it:
  Enter, c   it goes on          NUMBER   a read gives that, a write is dropped
  q          end: all go on
Nothing of it has been done before; other vCPUs, other VMs and the device's timers go on.  What
nobody decides goes on by itself, and so does all when this ends, or when there are no more lines.
"""
_ENDS: Final = {
    "timeout": "went on by itself: its time was over",
    "paused": "went on: the VM is to stand still",
    "reset": "is over: the VM was reset",
    "dropped": "is over: its client has gone",
    "posted": "was posted: nobody waits for it, it did not stop",
}
_ARROWS: Final = {"read": "->", "write": "<-"}


class NoMoreLines(Exception):
    """Standard input has ended: nobody decides any more."""


class Unreadable(ValueError):
    """The command line says nothing that can be broken at."""


def declare(parser: argparse.ArgumentParser) -> None:
    """Its command line."""
    parser.add_argument("target", metavar="DEVICE[.REGISTER]", help="or VM/DEVICE...; * and ? in REGISTER")
    which = "read, write, == VALUE, or both; all accesses if left out"
    parser.add_argument("words", nargs="*", metavar="WHICH", help=which)
    longest = "how long an access stands; default: 30, at most 600"
    seconds = _within(float, SHORTEST_S, LONGEST_S)
    parser.add_argument("--timeout", type=seconds, metavar="SECONDS", help=longest)
    parser.add_argument("--count", type=_within(int, 1, inf), metavar="N", help="end when N stops are over")


def _within(kind: type[float], low: float, high: float) -> Callable[[str], float]:
    """Reads a number of the command line."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {low:g} to {high:g}")
        return value

    return read


def request(target: str, words: list[str], vm: str | None, timeout_s: float | None) -> dict[str, object]:
    """`[VM/]DEVICE[.REGISTER] [read|write] [== VALUE]`, as parameters of Break.

    Raises:
        Unreadable: a word is none of these.
    """
    named, _, place = target.rpartition("/")
    device, _, register = place.partition(".")
    rest = " ".join(words).replace("==", " == ").split()
    direction = WORDS.get(rest[0]) if rest else None
    value = _value(rest[direction is not None :])
    timeout_ms = None if timeout_s is None else round(timeout_s * 1000)
    wanted = {"register": register or None, "direction": direction, "value": value, "timeout_ms": timeout_ms}
    return {"vm": named or vm, "device": device, **wanted}


def _value(words: list[str]) -> int | None:
    if not words:
        return None
    if words[0] != "==" or len(words) != 2:
        raise Unreadable(f"{' '.join(words)!r} is neither read nor write nor == VALUE")
    try:
        return number(words[1])
    except ValueError as error:
        raise Unreadable(str(error)) from None


def does_not_fit(refused: Refused) -> bool:
    """Whether an answer is larger than the access."""
    return refused.error.endswith("InvalidParameter") and refused.parameters.get("parameter") == "value"


@define(eq=False)
class Prompt:
    """Standard input, read while an access stands and never before."""

    _held: bytes = b""
    _ended: bool = False

    def line(self, replies: int) -> str | None:
        """The next line, None if the daemon told something first.

        Raises:
            NoMoreLines: there are none.
        """
        while b"\n" not in self._held:
            if self._ended:
                raise NoMoreLines
            ready, _, _ = select.select([0, replies], [], [])
            if replies in ready:
                return None
            data = os.read(0, 4096)
            self._ended = not data
            self._held += data
            if self._ended and self._held:
                self._held += b"\n"
        text, _, self._held = self._held.partition(b"\n")
        return text.decode(errors="replace").strip().lower()


@define(eq=False)
class Breaking:
    """One `mmioctl break`."""

    replies: Client
    orders: Client
    as_json: bool
    count: int | None
    """Stops after which it ends."""
    prompt: Prompt = field(factory=Prompt)
    standing: dict[int, Object] = field(factory=dict)
    """By number."""

    def run(self, wanted: Object) -> None:
        """Until it is ended, from here or by the daemon."""
        stream = self.replies.stream("Break", **wanted)
        print(introduce(_next(stream)), file=sys.stderr, flush=True)
        done = 0
        while self.count is None or done < self.count:
            if self.standing and not self.replies.received:
                text = self.prompt.line(self.replies.fileno())
                if text in QUIT:
                    return
                if text is not None:
                    self._order(text)
                    continue
            reply = _next(stream)
            self._show(reply)
            done += reply["over"] is not None

    def _show(self, reply: Object) -> None:
        stop, over = reply["stop"], reply["over"]
        if self.as_json:
            print(json.dumps({"stop": stop, "over": over, "lost": reply["lost"]}), flush=True)
        elif reply["lost"]:
            print(f"... {reply['lost']} events were lost", flush=True)
        if stop is not None:
            self.standing[stop["number"]] = stop
            if not self.as_json:
                print(line(stop), flush=True)
        if over is not None:
            self.standing.pop(over["number"], None)
            if not self.as_json:
                print(ending(over), flush=True)

    def _order(self, text: str) -> None:
        """What somebody wants of the access that stands longest."""
        longest, stop = next(iter(self.standing.items()))
        try:
            value = None if text in CONTINUE else number(text)
            self.orders.call("Continue", vm=stop["vm"], device=stop["device"], number=longest, value=value)
        except ValueError:
            print(PROMPT, file=sys.stderr, flush=True)
        except Refused as refused:
            if does_not_fit(refused):
                print(f"{text} does not fit into {stop['size']} bytes", file=sys.stderr, flush=True)
            # else it went on meanwhile, as the next reply tells
        else:
            del self.standing[longest]


def _next(stream: Iterator[Object | None]) -> Object:
    """The next reply.

    Raises:
        Ended: the daemon has gone.
    """
    for reply in stream:
        if reply is not None:
            return reply
    raise Ended


def introduce(first: Object) -> str:
    """What stops, in the words of the daemon."""
    past = "; it was published, and is asked for while this lasts" if first["withdrawn"] else ""
    limit = duration(first["timeout_ms"] * 1_000_000)
    return f"stopping {first['covers']}; each goes on by itself after {limit}{past}\n{PROMPT}"


def line(stop: Object) -> str:
    """An access that stands, as people read it."""
    value = "?" if stop["value"] is None else hexadecimal(stop["value"], stop["size"])
    parts = [
        f"#{stop['number']}",
        stop["vm"] if stop["vcpu"] < 0 else f"{stop['vm']}/{stop['vcpu']}",
        stop["device"],
        (stop["register"] or stop["region"]).upper(),
        _ARROWS[stop["direction"]],
        value,
        fields({name: found for name, found in stop["fields"].items() if found}),
        f"{stop['space']}:{stop['address']:#x}",
        f"{stop['size']}B",
        "" if stop["pc"] is None else f"pc={stop['pc']:#x}",
    ]
    return " ".join(part for part in parts if part)


def ending(over: Object) -> str:
    """How a stop ended."""
    answer = "" if over["value"] is None else f" by {over['value']:#x}"
    return f"#{over['number']} {_ENDS.get(over['how'], over['how'] + answer)}"
