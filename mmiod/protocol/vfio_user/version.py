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


def negotiate(payload: bytes) -> bytes:
    """The payload that answers a client's.

    It names no capability that the client did not, as QEMU refuses a reply that is longer
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
        return head
    proposed = _capabilities(text)
    agreed = {name: value for name, value in OFFER.items() if name in proposed}
    return head + json.dumps({"capabilities": agreed}, separators=(",", ":")).encode() + b"\0"


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
