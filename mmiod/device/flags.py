"""Flags that are plain numbers as soon as they are combined.

An `enum.IntFlag` makes a member of each combination, which takes 0.5 us, and three times as long in a device
that runs now and then: a third of what an 8042 did with an access.
"""

from __future__ import annotations

import enum
from typing import Final, TypeVar

F = TypeVar("F", bound=enum.IntFlag)

_OPERATORS: Final = ("__or__", "__ror__", "__and__", "__rand__", "__xor__", "__rxor__", "__invert__")


def plain(flags: type[F]) -> type[F]:
    """Have `|`, `&`, `^` and `~` of these flags give plain numbers; decorates their class."""
    for name in _OPERATORS:
        setattr(flags, name, getattr(int, name))
    return flags
