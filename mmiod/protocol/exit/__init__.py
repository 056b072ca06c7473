"""The exit protocol, version 1: sans-IO, both halves.

`table` holds every number and structure; `codec`, `exits`, `completions`,
`supplements` and `readers` turn datagrams into events and back; `session`, `ledger` and
`replies` (functions that give bytes) are the daemon's side, `client` the hypervisor's.

Specification: docs/protocol.md.
"""

from __future__ import annotations

from mmiod.protocol.exit import replies
from mmiod.protocol.exit.client import NEW_SESSION, Client
from mmiod.protocol.exit.codec import Message, frame, pack, subject_of, unpack
from mmiod.protocol.exit.completions import (
    NO_DEADLINE,
    Answer,
    Completed,
    decode_completion,
    encode_completion,
)
from mmiod.protocol.exit.events import (
    Ack,
    Arrived,
    Claim,
    Claims,
    Eoi,
    Error,
    Grant,
    Hello,
    Intr,
    Map,
    Msi,
    Pause,
    QueryClaims,
    Remap,
    Request,
    Reset,
    Restore,
    Resume,
    Resumed,
    Revoke,
    Revoked,
    Save,
    SetLevel,
    Share,
    ToClient,
    ToDaemon,
    Unmap,
    Welcome,
)
from mmiod.protocol.exit.exits import PostedWrite, decode_exit, decode_posted, encode_exit, encode_posted
from mmiod.protocol.exit.ledger import IN_FLIGHT, NEW, Admission, Ledger
from mmiod.protocol.exit.readers import read
from mmiod.protocol.exit.session import Offer, Session, State, check_continues
from mmiod.protocol.exit.sourced import Reply, SourceExit, encode_source
from mmiod.protocol.exit.table import MAX_MESSAGE, NUMBERS, VERSION

__all__ = [
    "IN_FLIGHT",
    "MAX_MESSAGE",
    "NEW",
    "NEW_SESSION",
    "NO_DEADLINE",
    "NUMBERS",
    "VERSION",
    "Ack",
    "Admission",
    "Answer",
    "Arrived",
    "Claim",
    "Claims",
    "Client",
    "Completed",
    "Eoi",
    "Error",
    "Grant",
    "Hello",
    "Intr",
    "Ledger",
    "Map",
    "Message",
    "Msi",
    "Offer",
    "Pause",
    "PostedWrite",
    "QueryClaims",
    "Remap",
    "Reply",
    "Request",
    "Reset",
    "Restore",
    "Resume",
    "Resumed",
    "Revoke",
    "Revoked",
    "Save",
    "Session",
    "SetLevel",
    "Share",
    "SourceExit",
    "State",
    "ToClient",
    "ToDaemon",
    "Unmap",
    "Welcome",
    "check_continues",
    "decode_completion",
    "decode_exit",
    "decode_posted",
    "encode_completion",
    "encode_exit",
    "encode_posted",
    "encode_source",
    "frame",
    "pack",
    "read",
    "replies",
    "subject_of",
    "unpack",
]
