"""No datagram is as long as it says: an invariant that does not hold, to see that this is found."""

from __future__ import annotations

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import read


def seeds() -> list[bytes]:
    """A header that is not whole."""
    return [bytes(7)]


def run(data: bytes) -> None:
    """Its type is looked at once the length is right."""
    try:
        read(data)
    except ProtocolError as error:
        if error.name == "header.type":
            raise AssertionError("planted") from error
