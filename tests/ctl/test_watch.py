"""The lines of `mmioctl watch`."""

from __future__ import annotations

import itertools
import json

import pytest

from mmiod.ctl.client import Object
from mmiod.ctl.watch import JsonLines, TextLines, introduce, line

LCR: Object = {
    "time_ns": 12_345_678_901,
    "vm": "vm0",
    "vcpu": 0,
    "sequence": 7,
    "space": "pio",
    "direction": "write",
    "address": 0x3FB,
    "size": 1,
    "value": 0x83,
    "device": "uart0",
    "generation": 1,
    "region": "main",
    "offset": 3,
    "register": "lcr",
    "fields": {"WLS": 3, "STB": 0, "DLAB": 1},
    "status": "ok",
    "latency_ns": 4100,
    "pc": 0xF1234,
    "count": 1,
}
NOBODY: Object = {
    **LCR,
    "space": "mmio",
    "direction": "read",
    "address": 0xFED4_0024,
    "size": 4,
    "value": 0xFFFF_FFFF,
    "device": None,
    "region": None,
    "offset": None,
    "register": None,
    "fields": {},
    "status": "unclaimed",
    "latency_ns": 0,
    "pc": None,
}


def reply(*accesses: Object, dropped: int = 0) -> Object:
    """A reply of Watch."""
    return {"accesses": list(accesses), "dropped": dropped, "covers": None, "devices": None}


def at(ns: int, access: Object = LCR) -> Object:
    """The same access at another time, as another exit, with another latency."""
    return {**access, "time_ns": ns, "sequence": ns, "latency_ns": ns % 1000}


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        (LCR, "12.345678 vm0/0 uart0 LCR <- 0x83 WLS=3 DLAB=1 pio:0x3f8+3 1B 4.1us pc=0xf1234"),
        (NOBODY, "12.345678 vm0/0 - -> 0xffffffff unclaimed mmio:0xfed40024 4B 0ns"),
        (
            {**LCR, "offset": 0, "address": 0x3F8, "fields": {}, "register": None},
            "12.345678 vm0/0 uart0 main <- 0x83 pio:0x3f8 1B 4.1us pc=0xf1234",
        ),
        (
            {**LCR, "offset": 0x24, "address": 0xFED4_0024, "space": "mmio", "fields": {}, "vcpu": -1},
            "12.345678 vm0 uart0 LCR <- 0x83 mmio:0xfed40000+0x24 1B 4.1us pc=0xf1234",
        ),
        (
            {**LCR, "status": "quarantined", "fields": {}},
            "12.345678 vm0/0 uart0 LCR <- 0x83 quarantined pio:0x3f8+3 1B 4.1us pc=0xf1234",
        ),
    ],
)
def test_a_line_has_names_and_numbers(access: Object, expected: str) -> None:
    """Time, vCPU, device, register, value, fields that are set, place, size, latency, PC."""
    assert expected == line(access)


def test_colour_changes_no_words() -> None:
    """A terminal gets the same line, painted."""
    painted = line({**NOBODY, "register": "lcr"}, colour=True)

    plain = (
        painted.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[31m", "").replace("\x1b[m", "")
    )
    assert line({**NOBODY, "register": "lcr"}) == plain
    assert "\x1b[31munclaimed\x1b[m" in painted


def test_repetitions_collapse() -> None:
    """Equal accesses become a count, across replies, told before the next line."""
    lines = TextLines(colour=False)

    first = list(lines.take(reply(at(1), at(2), at(3))))
    second = list(lines.take(reply(at(4), at(5, NOBODY), at(6))))

    assert [line(at(1))] == first
    assert ["    last line again x 3", line(at(5, NOBODY)), line(at(6))] == second
    assert [] == list(lines.finish())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vm", "vm1"),
        ("vcpu", 1),
        ("space", "mmio"),
        ("direction", "read"),
        ("address", 0x2FB),
        ("size", 2),
        ("value", 0x84),
        ("device", "pit"),
        ("status", "size"),
        ("pc", None),
    ],
)
def test_what_differs_is_a_line_of_its_own(key: str, value: object) -> None:
    """Only time, sequence and latency may differ in a repetition."""
    other = {**LCR, key: value}

    assert [line(LCR), line(other)] == list(TextLines(colour=False).take(reply(LCR, other)))


def test_repetitions_without_end_are_told_each_second() -> None:
    """A polling loop shows that it is still running."""
    lines = TextLines(colour=False)
    accesses = [at(ns) for ns in range(0, 2_500_000_001, 500_000_000)]

    found = list(itertools.chain(lines.take(reply(*accesses)), lines.finish()))

    assert [line(at(0)), *["    last line again x 2"] * 2, "    last line again x 1"] == found


def test_a_lull_tells_what_is_pending() -> None:
    """When nothing comes any more the count does not wait for another access."""
    lines = TextLines(colour=False)
    list(lines.take(reply(at(1), at(2))))

    assert ["    last line again x 1"] == list(lines.finish())
    assert [] == list(lines.finish())


def test_losses_are_told_where_they_are() -> None:
    """The number of lost accesses stands between those before and behind; nothing collapses across."""
    lines = TextLines(colour=False)
    before = list(lines.take(reply(at(1), at(2))))
    behind = list(lines.take(reply(at(3), dropped=1041)))

    assert [line(at(1))] == before
    assert [
        "    last line again x 1",
        "... 1041 accesses were lost: they came faster than they were read",
        line(at(3)),
    ] == behind


def test_json_has_every_access() -> None:
    """Programs get one object per access and one per loss; nothing collapses."""
    lines = JsonLines()

    found = [json.loads(text) for text in lines.take(reply(LCR, LCR, dropped=2))]

    assert [{"dropped": 2}, LCR, LCR] == found
    assert [] == list(lines.finish())


def test_introduction() -> None:
    """What a filter covers, and whether there is anything for it."""
    first = {"covers": "every access that reaches mmiod", "devices": ["vm0/uart0", "vm0/pit"]}

    assert (
        "watching every access that reaches mmiod; devices that match now: vm0/uart0, vm0/pit"
        == introduce(first)
    )
    assert introduce({**first, "devices": []}).endswith("devices that match now: none")
    many = {**first, "devices": list("abcdefgh")}
    assert introduce(many).endswith("devices that match now: a, b, c, d, e, f and 2 more")
    shown = introduce({**first, "withdrawn": ["vm0/uart0"]})
    assert shown.endswith("; published, and asked for while this lasts: vm0/uart0")
