"""Requests of a block device (VIRTIO 1.2, 5.2.6), as requests to an image."""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Mapping
from typing import Final

from attrs import frozen

from mmiod.device.block import AT, MAX_RANGE, MAX_TRANSFER, SECTOR, BlockClient

RANGE: Final = struct.Struct("<QII")
"""Sector, sectors, flags: of a discard, or zeroes."""


class Type(enum.IntEnum):
    """Requests (5.2.6)."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


@frozen
class Form:
    """One type: how many bytes it has, and what the image is asked (None: that is not supported).

    Asked is with the header from the sector on, the bytes behind it, and how many are to come.
    """

    fits: Callable[[int, int], bool]
    ask: Callable[[BlockClient, bytes, int], int | None]


def _sectors(length: int) -> bool:
    return not length % SECTOR and 1 <= length // SECTOR <= MAX_TRANSFER


def _ask_read(image: BlockClient, data: bytes, incoming: int) -> int:
    (sector,) = AT.unpack(data)
    return image.read(sector, incoming // SECTOR)


def _ask_discard(image: BlockClient, data: bytes, _incoming: int) -> int | None:
    sector, count, flags = RANGE.unpack_from(data, AT.size)
    return None if flags or not 1 <= count <= MAX_RANGE else image.discard(sector, count)


def _ask_zeroes(image: BlockClient, data: bytes, _incoming: int) -> int | None:
    """Whether they may be unmapped does not matter: their space is kept."""
    sector, count, flags = RANGE.unpack_from(data, AT.size)
    return None if flags & ~1 or not 1 <= count <= MAX_RANGE else image.write_zeroes(sector, count)


FORMS: Final[Mapping[int, Form]] = {
    Type.IN: Form(lambda outgoing, incoming: not outgoing and _sectors(incoming), _ask_read),
    Type.OUT: Form(
        lambda outgoing, incoming: _sectors(outgoing) and not incoming,
        lambda image, data, _incoming: image.write_behind(data),
    ),
    Type.FLUSH: Form(
        lambda outgoing, incoming: not (outgoing or incoming),
        lambda image, _data, _incoming: image.flush(),
    ),
    Type.DISCARD: Form(lambda outgoing, incoming: outgoing == RANGE.size and not incoming, _ask_discard),
    Type.WRITE_ZEROES: Form(lambda outgoing, incoming: outgoing == RANGE.size and not incoming, _ask_zeroes),
}
