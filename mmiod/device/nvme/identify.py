"""Data structures of the Identify command (NVM Express 1.4, 5.15): 4 KiB each.

What is not listed is 0: nothing of it is supported, or nothing is reported.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Mapping
from typing import Final

from attrs import frozen

from mmiod.device.block import MAX_TRANSFER, SECTOR, Medium
from mmiod.device.nvme.entries import Refused, Status, Submission
from mmiod.device.nvme.prp import PAGE

LENGTH: Final = 4096
NAMESPACE: Final = 1
"""Number of the only namespace."""
VERSION: Final = 0x0001_0400
MODEL: Final = "mmiod NVMe"
FIRMWARE: Final = "1.0"
MAX_TRANSFER_SHIFT: Final = 7
"""MDTS: a command moves at most 2^7 pages, 512 KiB."""
MAX_LENGTH: Final = PAGE << MAX_TRANSFER_SHIFT
assert MAX_LENGTH <= MAX_TRANSFER * SECTOR
WARNING_K, CRITICAL_K = 343, 373
"""Composite temperature thresholds in kelvin: they have to be there (5.15.2.2)."""
_SECTOR_SHIFT: Final = SECTOR.bit_length() - 1
_UUID: Final = 3
"""Namespace identifier type (5.15.2.3)."""
_RESERVED_NAMESPACES: Final = 0xFFFF_FFFE

Field = tuple[int, str, int | bytes]
"""Offset, how it is packed, value."""


@frozen
class Unit:
    """What a controller says of itself and of its namespace."""

    serial: str
    medium: Medium
    vendor: int
    subsystem_vendor: int

    @property
    def unique(self) -> uuid.UUID:
        """The same for the same serial number."""
        return uuid.uuid5(uuid.NAMESPACE_OID, self.serial)


def structure(unit: Unit, entry: Submission) -> bytes:
    """The structure that an Identify command asks for (CNS).

    Raises:
        Refused: there is no such structure, or no such namespace.
    """
    maker = _STRUCTURES.get(entry.dwords[0] & 0xFF)
    if maker is None:
        raise Refused(Status.INVALID_FIELD)
    return maker(unit, entry.namespace)


def has(unit: Unit, namespace: int) -> bool:
    """Whether the namespace is active: it is while there is an image."""
    return namespace == NAMESPACE and unit.medium.sectors > 0


def _namespace(unit: Unit, namespace: int) -> bytes:
    """CNS 00h (5.15.2.1); zeroes for one that is not active."""
    if namespace != NAMESPACE:
        raise Refused(Status.INVALID_NAMESPACE)
    if not has(unit, namespace):
        return bytes(LENGTH)
    sectors, read_only = unit.medium.sectors, unit.medium.read_only
    return _filled(
        (0, "<Q", sectors),
        (8, "<Q", sectors),  # capacity
        (16, "<Q", sectors),  # utilization
        (99, "<B", int(read_only)),  # attributes: write protected
        (130, "<B", _SECTOR_SHIFT),  # LBA format 0: no metadata, 2^9 bytes
    )


def _controller(unit: Unit, _namespace: int) -> bytes:
    """CNS 01h (5.15.2.2)."""
    return _filled(
        (0, "<H", unit.vendor),
        (2, "<H", unit.subsystem_vendor),
        (4, "20s", unit.serial.ljust(20).encode()),
        (24, "40s", MODEL.ljust(40).encode()),
        (64, "8s", FIRMWARE.ljust(8).encode()),
        (77, "<B", MAX_TRANSFER_SHIFT),
        (80, "<I", VERSION),
        (111, "<B", 1),  # CNTRLTYPE: an I/O controller
        (258, "<B", 3),  # ACL: four Abort commands
        (260, "<B", 0b11),  # FRMW: one slot, read-only
        (261, "<B", 1 << 2),  # LPA: extended data of Get Log Page
        (266, "<H", WARNING_K),
        (268, "<H", CRITICAL_K),
        (512, "<B", 0x66),  # SQES, the only size of submission queue entries
        (513, "<B", 0x44),  # CQES
        (516, "<I", NAMESPACE),  # NN
        (520, "<H", 1 << 2 | 1 << 3),  # ONCS: Dataset Management, Write Zeroes
        (525, "<B", 0b111),  # VWC: there is a write cache; Flush takes all namespaces
        (768, "256s", f"nqn.2014-08.org.nvmexpress:uuid:{unit.unique}".encode()),
        (2048, "<H", 100),  # MP of power state 0: 1 W
    )


def _active_namespaces(unit: Unit, above: int) -> bytes:
    """CNS 02h (5.15.2.4): those with greater numbers."""
    if above >= _RESERVED_NAMESPACES:
        raise Refused(Status.INVALID_NAMESPACE)
    active = has(unit, NAMESPACE) and above < NAMESPACE
    return _filled((0, "<I", NAMESPACE if active else 0))


def _descriptors(unit: Unit, namespace: int) -> bytes:
    """CNS 03h (5.15.2.3): by what the namespace is known everywhere."""
    if not has(unit, namespace):
        raise Refused(Status.INVALID_NAMESPACE)
    return _filled((0, "<B", _UUID), (1, "<B", 16), (4, "16s", unit.unique.bytes))


_STRUCTURES: Final[Mapping[int, Callable[[Unit, int], bytes]]] = {
    0x00: _namespace,
    0x01: _controller,
    0x02: _active_namespaces,
    0x03: _descriptors,
}


def _filled(*fields: Field) -> bytes:
    data = bytearray(LENGTH)
    for offset, form, value in fields:
        struct.pack_into(form, data, offset, value)
    return bytes(data)
