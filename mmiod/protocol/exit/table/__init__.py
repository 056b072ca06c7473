"""The exit protocol, version 1: every number and structure on the wire, in one table.

The Python codec, `include/mmiod_exit.h` and the tables of docs/protocol.md are made
from this text, so they cannot disagree.  All integers are little-endian and naturally
aligned; padding is written out as `reserved` and must be zero.  A message is one
SOCK_SEQPACKET datagram and begins with the `header`; the word `tail` in a message's
head line lets bytes follow its fixed part, and its comment says which.  The bits of
`header.flags` of message X are `enum x_flag`; a message without one has no flags.
"""

from __future__ import annotations

from typing import Final

from mmiod.protocol.exit.table import control, exits, numbers, session, shared, structures
from mmiod.protocol.exit.table.layout import Layout as Layout, Member as Member, Numbers as Numbers, parse

VERSION: Final = 1
MAX_MESSAGE: Final = 65536
"""Bytes; larger things travel by memfd."""

PARTS: Final = (structures, session, exits, control, shared, numbers)
"""In the order of the header file; what is nested comes first."""

LAYOUTS, NUMBERS = parse("".join(part.TEXT for part in PARTS))
MESSAGES: Final = {layout.type: layout for layout in LAYOUTS.values() if layout.type is not None}
