"""Writes include/mmiod_exit.h: the table's layout in C11 and C++, and behind it the client's half.

    python -m mmiod.protocol.exit.header > include/mmiod_exit.h

Structures have no packing attribute: their members are naturally aligned, and a static
assertion holds every offset and size to the table's.  The .h files beside this one are the
client's half as functions, written by hand; a C program needs one header only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mmiod.protocol.exit.table import (
    LAYOUTS,
    MAX_MESSAGE,
    MESSAGES,
    NUMBERS,
    VERSION,
    Layout,
    Member,
    Numbers,
)

PROLOGUE: Final = f"""\
/*
 * The exit protocol of mmiod, version {VERSION}: see docs/protocol.md.
 * Generated from table/, slots.h, grants.h, client.h and published.h in mmiod/protocol/exit/
 * by `python -m mmiod.protocol.exit.header`; do not edit.
 *
 * All integers are little-endian.  A message is one SOCK_SEQPACKET datagram and begins
 * with struct mmiod_header; members named reserved are zero.
 */
#ifndef MMIOD_EXIT_H
#define MMIOD_EXIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define MMIOD_STATIC_ASSERT static_assert
#else
#define MMIOD_STATIC_ASSERT _Static_assert
#endif
#define MMIOD_SIZE(type, size) MMIOD_STATIC_ASSERT(sizeof(struct type) == (size), #type)
#define MMIOD_OFFSET(type, member, offset) \\
    MMIOD_STATIC_ASSERT(offsetof(struct type, member) == (offset), #type "." #member)

#define MMIOD_EXIT_VERSION {VERSION}
#define MMIOD_EXIT_MAX_MESSAGE {MAX_MESSAGE}
"""

END_OF_LAYOUT: Final = """\
#undef MMIOD_OFFSET
#undef MMIOD_SIZE
#undef MMIOD_STATIC_ASSERT
"""
CLIENT: Final = [
    Path(__file__).with_name(name) for name in ("slots.h", "grants.h", "client.h", "published.h")
]
EPILOGUE: Final = """
#endif /* MMIOD_EXIT_H */
"""

FIXED_SIZES: Final = """\
/* Bytes of a message without its tail; 0 for a type that does not exist. */
static inline uint32_t mmiod_message_size(uint16_t type)
{
    switch (type) {\
"""
C_TYPES: Final = {
    "u8": "uint8_t",
    "u16": "uint16_t",
    "u32": "uint32_t",
    "u64": "uint64_t",
    "i32": "int32_t",
    "char": "char",
}
COMMENT_COLUMN: Final = 40


def render() -> str:
    """The whole header."""
    parts = [PROLOGUE, _message_types()]
    parts += map(_numbers, NUMBERS.values())
    parts += map(_structure, LAYOUTS.values())
    parts += [END_OF_LAYOUT, _any_message(), _fixed_sizes(), *(part.read_text() for part in CLIENT)]
    return "\n".join(parts) + EPILOGUE


def c_name(layout: Layout) -> str:
    """The structure's tag: `mmiod_msg_map` of MAP, `mmiod_vcpu` of vcpu."""
    return f"mmiod_msg_{layout.name.lower()}" if layout.type is not None else f"mmiod_{layout.name}"


def c_members(layout: Layout) -> Iterator[tuple[str, int]]:
    """Name and offset of every member in C, the header of a message included."""
    if layout.type is not None:
        yield "header", 0
    for member in layout.members:
        yield member.name, member.offset


def _line(code: str, comment: str) -> str:
    return f"{code:<{COMMENT_COLUMN}} /* {comment} */" if comment else code


def _enumeration(name: str, comment: str, members: list[tuple[str, str, str]]) -> str:
    lines = [_line(f"enum mmiod_{name} {{", comment)]
    lines += [_line(f"    MMIOD_{name.upper()}_{label} = {value},", note) for label, value, note in members]
    return "\n".join([*lines, "};", ""])


def _message_types() -> str:
    members = [(layout.name, str(layout.type), layout.note) for layout in MESSAGES.values()]
    return _enumeration("msg", "header.type", members)


def _numbers(numbers: Numbers) -> str:
    members = [
        (label, f"1 << {number}" if numbers.bits else str(number), note)
        for label, number, note in numbers.members
    ]
    return _enumeration(numbers.name, numbers.comment, members)


def _structure(layout: Layout) -> str:
    lines = [_line(f"struct {c_name(layout)} {{", layout.note)]
    if layout.type is not None:
        lines.append("    struct mmiod_header header;")
    lines += map(_member, layout.members)
    return "\n".join([*lines, "};", *_assertions(layout), ""])


def _any_message() -> str:
    lines = [
        _line("union mmiod_message {", "any message, as header.type says"),
        "    struct mmiod_header header;",
    ]
    lines += [f"    struct {c_name(layout)} {layout.name.lower()};" for layout in MESSAGES.values()]
    return "\n".join([*lines, "    uint8_t bytes[MMIOD_EXIT_MAX_MESSAGE];", "};", ""])


def _fixed_sizes() -> str:
    lines = [
        f"    case MMIOD_MSG_{layout.name}: return sizeof(struct {c_name(layout)});"
        for layout in MESSAGES.values()
    ]
    return "\n".join([FIXED_SIZES, *lines, "    default: return 0;", "    }", "}", ""])


def _member(member: Member) -> str:
    type_ = f"struct {c_name(member.layout)}" if member.layout else C_TYPES[member.type]
    count = f"[{member.count}]" if member.count > 1 else ""
    return _line(f"    {type_} {member.name}{count};", member.comment)


def _assertions(layout: Layout) -> Iterator[str]:
    tag = c_name(layout)
    yield f"MMIOD_SIZE({tag}, {layout.size});"
    for name, offset in c_members(layout):
        yield f"MMIOD_OFFSET({tag}, {name}, {offset});"


if __name__ == "__main__":
    sys.stdout.write(render())
