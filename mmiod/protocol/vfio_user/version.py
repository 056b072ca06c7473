"""VERSION: what client and server can do, as JSON (QEMU docs/interop/vfio-user.rst, "Version")."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from typing import Final

from mmiod.errors import ProtocolError
from mmiod.protocol.vfio_user.requests import MAX_TRANSFER
from mmiod.protocol.vfio_user.table import LAYOUTS, MAJOR, MINOR

MAX_TEXT: Final = 4096
"""Bytes of a client's capabilities."""
MAX_MAPS: Final = 512
OFFER: Final[Mapping[str, int | bool]] = {
    # QEMU refuses more than it has itself, which is 16; rust-vmm sends 16 whatever we say.
    "max_msg_fds": 16,
    "max_data_xfer_size": MAX_TRANSFER,
    "max_dma_maps": MAX_MAPS,
    "write_multiple": True,
}


def negotiate(payload: bytes, *, takes_messages: bool = False) -> tuple[bytes, int]:
    """The payload that answers a client's, and how many bytes of its memory one message reaches.

    These are 0 for a client that does not take messages: rust-vmm and alioth lose their place
    in the stream.  QEMU, which does, names page sizes and WRITE_MULTI.  libvfio-user's client
    names nothing that tells it from those two: `takes_messages` is what people know.

    The reply names no capability that the client did not, as QEMU refuses one that is longer
    than its request.

    Raises:
        ProtocolError: there is no common version, or the capabilities cannot be read.
    """
    asked, text = LAYOUTS["version"].read(payload), payload[LAYOUTS["version"].size :]
    if asked["major"] != MAJOR:
        reason = f"this server speaks version {MAJOR}.{MINOR}"
        raise ProtocolError(errno.EINVAL, "version.major", asked["major"], reason)
    head = LAYOUTS["version"].pack(major=MAJOR, minor=min(asked["minor"], MINOR))
    if not text:
        return head, MAX_TRANSFER if takes_messages else 0
    proposed = _capabilities(text)
    agreed = {name: value for name, value in OFFER.items() if name in proposed}
    offered = json.dumps({"capabilities": agreed}, separators=(",", ":")).encode() + b"\0"
    takes_messages |= bool(proposed.keys() & {"pgsizes", "write_multiple"})
    return head + offered, _reach(proposed) if takes_messages else 0


def _reach(proposed: Mapping[str, object]) -> int:
    """Bytes of one message that reads or writes the client's memory."""
    limit = proposed.get("max_data_xfer_size", MAX_TRANSFER)
    if type(limit) is not int or limit <= 0:
        raise ProtocolError(errno.EINVAL, "version max_data_xfer_size", 0, f"{limit!r:.20} is no size")
    return min(limit, MAX_TRANSFER)


def _capabilities(text: bytes) -> Mapping[str, object]:
    if len(text) > MAX_TEXT:
        raise ProtocolError(errno.EINVAL, "version data", len(text), f"at most {MAX_TEXT} bytes")
    try:
        found = json.loads(text.removesuffix(b"\0") or b"{}")
        proposed = found.get("capabilities", {})
        return {str(name): proposed[name] for name in proposed}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        reason = f"no JSON object with capabilities: {error}"
        raise ProtocolError(errno.EINVAL, "version data", len(text), reason) from error
