"""The shared memory of a session: where things are in it, and what comes out of a ring.

Specification: docs/protocol.md, "Shared memory".
"""

from __future__ import annotations

import struct
from typing import Final

from mmiod.errors import ProtocolError
from mmiod.protocol.exit.codec import BY_NAME, ERROR, HEADER, structure
from mmiod.protocol.exit.events import Share
from mmiod.protocol.exit.table import LAYOUTS, NUMBERS

PAGE: Final = 4096
"""Bytes of the header's page, and of each slot."""
MAX_SLOTS: Final = 251
"""Their ears come with one message (SCM_MAX_FD), two more descriptors with them."""
_HEADER: Final = {member.name: member for member in LAYOUTS["shared_header"].members}
_SLOT: Final = {member.name: member for member in LAYOUTS["shared_slot"].members}
DAEMON_SLEEPS: Final = _HEADER["daemon_sleeps"].offset
PUBLISHED_OFFSET: Final = _HEADER["published_offset"].offset
DOORBELLS: Final = _HEADER["doorbells"].offset
STATE: Final = _SLOT["state"].offset
CLIENT_SLEEPS: Final = _SLOT["client_sleeps"].offset
POSTED: Final = _SLOT["posted"].offset
APPLIED: Final = _SLOT["applied"].offset
EXIT: Final = _SLOT["exit"].offset
MAX_EXIT: Final = _SLOT["exit"].size
COMPLETION: Final = _SLOT["completion"].offset
MAX_COMPLETION: Final = _SLOT["completion"].size
RING: Final = _SLOT["ring"].offset
ENTRIES: Final = _SLOT["ring"].count
ENTRY: Final = LAYOUTS["shared_posted"].size

_STATES: Final = NUMBERS["shared_state"]
READY: Final = _STATES["READY"]
COMPLETE: Final = _STATES["COMPLETE"]
BY_MESSAGE: Final = _STATES["BY_MESSAGE"]

_EXIT: Final = structure("exit")
_MESSAGE: Final = BY_NAME["POSTED"]
_PLACE: Final = slice(0, 24)
_TIME: Final = struct.Struct("<Q")


def check_share(share: Share, vcpus: int) -> None:
    """What a client proposes must hold a slot for each vCPU.

    Raises:
        ProtocolError: naming the field.
    """
    for holds, code, name, value, reason in (
        (share.slots <= MAX_SLOTS, "LIMIT", "slots", share.slots, f"at most {MAX_SLOTS}"),
        (share.slots == vcpus, "RANGE", "slots", share.slots, f"the session has {vcpus} vCPUs"),
        (share.length >= PAGE * (1 + vcpus), "RANGE", "length", share.length, f"{1 + vcpus} pages or more"),
    ):
        if not holds:
            raise ProtocolError(ERROR[code], f"share.{name}", value, reason, subject=share.serial)


def posted_message(vcpu: int, sequence: int, entry: bytes) -> bytes:
    """The POSTED that an entry of a ring stands for; it is checked as one that came alone."""
    (guest_ns,) = _TIME.unpack_from(entry, _PLACE.stop)
    head = HEADER.pack(_MESSAGE.struct.size, _MESSAGE.type, 0) + _EXIT.pack(vcpu, sequence, guest_ns)
    return head + entry[_PLACE]


def check_ring(vcpu: int, applied: int, posted: int) -> None:
    """A ring holds what was not taken out of it, and no more.

    Raises:
        ProtocolError: RANGE.
    """
    if not applied <= posted <= applied + ENTRIES:
        reason = f"vCPU {vcpu} has {applied} applied, and a ring of {ENTRIES}"
        raise ProtocolError(ERROR["RANGE"], "shared_slot.posted", posted, reason)
