"""Features (NVM Express 1.4, 5.21.1): what a host sets and gets by number.

Nothing is saveable, and there is no selection of defaults: ONCS says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import frozen

from mmiod.device.nvme.entries import Refused, Status, Submission
from mmiod.device.nvme.identify import WARNING_K
from mmiod.device.nvme.queues import IO_QUEUES

WRITE_CACHE: Final = "volatile_write_cache"
_SAVE: Final = 1 << 31
_ALL: Final = 0xFFFF_FFFF
_NUMBER_OF_QUEUES: Final = 0x07
_VECTOR_CONFIGURATION: Final = 0x09
_NOT_COALESCED: Final = 1 << 16


@frozen
class Feature:
    """One; bits outside of `mask` must be 0."""

    name: str
    default: int = 0
    mask: int = _ALL


FEATURES: Final[Mapping[int, Feature]] = {
    0x01: Feature("arbitration"),
    0x02: Feature("power_management", mask=0),
    0x04: Feature("temperature_threshold", WARNING_K),
    0x05: Feature("error_recovery"),
    0x06: Feature(WRITE_CACHE, 1, mask=1),
    0x08: Feature("interrupt_coalescing"),
    0x0A: Feature("write_atomicity", mask=1),
    0x0B: Feature("event_configuration"),
}
_DEFAULTS: Final = {feature.name: feature.default for feature in FEATURES.values()}


def value(stored: Mapping[str, int], name: str) -> int:
    """What a feature is set to."""
    return stored.get(name, _DEFAULTS[name])


def set_feature(stored: dict[str, int], entry: Submission, *, has_io_queues: bool) -> int:
    """Do a Set Features command; dword 0 of its completion.

    Raises:
        Refused: there is no such feature, or it cannot be that, or not any more.
    """
    if entry.dwords[0] & _SAVE:
        raise Refused(Status.FEATURE_NOT_SAVEABLE)
    number, wanted = entry.dwords[0] & 0xFF, entry.dwords[1]
    if number == _NUMBER_OF_QUEUES:
        if has_io_queues:
            raise Refused(Status.COMMAND_SEQUENCE_ERROR)
        return _queues(wanted)
    if number == _VECTOR_CONFIGURATION:
        raise Refused(Status.FEATURE_NOT_CHANGEABLE)
    feature = _feature(number)
    if wanted & ~feature.mask:
        raise Refused(Status.INVALID_FIELD)
    stored[feature.name] = wanted
    return 0


def get_feature(stored: Mapping[str, int], entry: Submission) -> int:
    """Do a Get Features command; dword 0 of its completion.

    Raises:
        Refused: there is no such feature.
    """
    number = entry.dwords[0] & 0xFF
    if number == _NUMBER_OF_QUEUES:
        return _queues(0)
    if number == _VECTOR_CONFIGURATION:
        return _vector(entry.dwords[1] & 0xFFFF)
    return value(stored, _feature(number).name)


def _feature(number: int) -> Feature:
    if number not in FEATURES:
        raise Refused(Status.INVALID_FIELD)
    return FEATURES[number]


def _queues(wanted: int) -> int:
    """Number of queues (5.21.1.7): there are as many as there are, whatever the host wants."""
    if 0xFFFF in {wanted & 0xFFFF, wanted >> 16}:
        raise Refused(Status.INVALID_FIELD)
    return (IO_QUEUES - 1) << 16 | IO_QUEUES - 1


def _vector(number: int) -> int:
    """Interrupt vector configuration (5.21.1.9): none is coalesced."""
    if number > IO_QUEUES:
        raise Refused(Status.INVALID_FIELD)
    return number | _NOT_COALESCED
