"""The table's language: a block for each structure, message or set of numbers; a line for each member."""

from __future__ import annotations

import re
import struct
from typing import Final

from attrs import evolve, field, frozen

_PRIMITIVES: Final = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i32": "i", "char": "s"}
_HEAD: Final = re.compile(r"(struct|message|enum) (\w+)(?: (\d+) (to-daemon|to-client)( tail)?| (values))?$")
_FIELD: Final = re.compile(r"(\w+) (\w+)(?:\[(\d+)\])?$")


@frozen
class Member:
    """One field of a structure: `count` elements of `type` at `offset` bytes."""

    type: str
    name: str
    count: int
    offset: int
    size: int
    comment: str
    layout: Layout | None = None
    """The structure it nests, if its type is one."""


@frozen
class Layout:
    """A structure or a message; a message's members begin behind the header."""

    name: str
    members: tuple[Member, ...]
    size: int
    """Bytes; of a message with its header, without its tail."""
    comment: str
    type: int | None = None
    to_daemon: bool = False
    tail: bool = False
    format: str = field(default="", repr=False)
    """Of `struct`, little-endian, nested structures flattened, `reserved` as padding."""

    @property
    def note(self) -> str:
        """The comment, which is about the tail if there is one."""
        return f"tail: {self.comment}" if self.tail else self.comment


@frozen
class Numbers:
    """A named set of numbers: bits if `bits`, else values."""

    name: str
    bits: bool
    members: tuple[tuple[str, int, str], ...]
    comment: str

    def __getitem__(self, name: str) -> int:
        """The number itself; for bits, the mask."""
        number = next(number for known, number, _ in self.members if known == name)
        return 1 << number if self.bits else number


def parse(text: str) -> tuple[dict[str, Layout], dict[str, Numbers]]:
    """Structures and messages, and sets of numbers, by name, in the order of the text.

    Raises:
        ValueError: a line is none of the table's, or a structure has a hole.
    """
    layouts: dict[str, Layout] = {}
    numbers: dict[str, Numbers] = {}
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = [tuple(part.strip() for part in line.partition("#")[::2]) for line in block.splitlines()]
        (head, comment), body = lines[0], lines[1:]
        found = _HEAD.match(head)
        if found is None:
            raise ValueError(head)
        kind, name, code, towards, tail, values = found.groups()
        if kind == "enum":
            members = tuple((line.split()[0], int(line.split()[1]), note) for line, note in body)
            numbers[name] = Numbers(name, values is None, members, comment)
        else:
            start = layouts["header"].size if kind == "message" else 0
            layout = _layout(name, body, comment, start, layouts)
            if kind == "message":
                layout = evolve(
                    layout, type=int(code), to_daemon=towards == "to-daemon", tail=tail is not None
                )
            layouts[name] = layout
    return layouts, numbers


def _layout(
    name: str, body: list[tuple[str, ...]], comment: str, start: int, known: dict[str, Layout]
) -> Layout:
    """Lay members out in order; a hole is a mistake of the table, not something to pad."""
    offset, members, code = start, list[Member](), ""
    for line, note in body:
        found = _FIELD.match(line)
        if found is None:
            raise ValueError(line)
        type_, member, count = found[1], found[2], int(found[3] or 1)
        nested = known.get(type_)
        element = nested.size if nested else struct.calcsize("<" + _PRIMITIVES[type_])
        if offset % min(element, 8):
            raise ValueError(f"{name}.{member} is not aligned at {offset}")
        members.append(Member(type_, member, count, offset, element * count, note, nested))
        code += _format(type_, member, count, nested)
        offset += element * count
    if offset % max(_alignment(member) for member in members):
        raise ValueError(f"{name} ends in a hole at {offset}")
    return Layout(name, tuple(members), offset, comment, format=code)


def _alignment(member: Member) -> int:
    if member.layout:
        return max(_alignment(inner) for inner in member.layout.members)
    return struct.calcsize("<" + _PRIMITIVES[member.type])


def _format(type_: str, name: str, count: int, nested: Layout | None) -> str:
    if nested:
        return nested.format * count
    if name.startswith("reserved"):
        return f"{struct.calcsize('<' + _PRIMITIVES[type_]) * count}x"
    if type_ == "char":
        return f"{count}s"
    if type_ == "u8" and count > 1:
        return f"{count}s"
    return _PRIMITIVES[type_] * count
