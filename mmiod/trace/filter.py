"""The filter language: which accesses somebody wants to see.

    device==uart* and register==LCR and direction==write and address>=0x3f8

Conditions are joined by `and`.  Names compare without regard to case and take `*` and
`?`; numbers are decimal, 0x, 0o or 0b.  An empty filter lets everything through.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from attrs import frozen

from mmiod.errors import MmiodError
from mmiod.trace import record
from mmiod.trace.record import Record
from mmiod.values import Direction, Space

Test: TypeAlias = Callable[[Record], bool]
Compare: TypeAlias = Callable[[int, int], bool]

MAX_LENGTH: Final = 1024
"""Characters of a filter's text."""


class FilterError(MmiodError):
    """A filter cannot be read; the message names the word and what it could have been."""


@frozen
class Condition:
    """One comparison of a record's column, written `key operator word`."""

    key: str
    operator: str
    word: str
    test: Test

    def __str__(self) -> str:
        return f"{self.key}{self.operator}{self.word}"


@frozen
class Filter:
    """All of `conditions`."""

    conditions: tuple[Condition, ...]

    def matches(self, access: Record) -> bool:
        """Whether a record passes."""
        return all(condition.test(access) for condition in self.conditions)

    def may_match(self, vm: str, device: str) -> bool:
        """Whether an access to this device can pass: what a filter says of names alone."""
        access: Record = (0, vm, 0, 0, 0, 0, 0, 0, 0, device, 0, "", "", 0, 0, 1)
        return all(condition.test(access) for condition in self.conditions if condition.key in _PLACES)

    def names(self, key: str) -> list[str]:
        """What a column has to be, as written; not what is a pattern, which any name may meet one day."""
        return [
            condition.word
            for condition in self.conditions
            if condition.key == key and condition.operator == "==" and not _WILD.intersection(condition.word)
        ]

    @property
    def covers(self) -> str:
        """What is looked at, in words."""
        if not self.conditions:
            return "every access that reaches mmiod"
        return "accesses that reach mmiod with " + " and ".join(map(str, self.conditions))


def parse(text: str) -> Filter:
    """Read a filter.

    Raises:
        FilterError: the text is too long, or a word of it is not what it has to be.
    """
    if len(text) > MAX_LENGTH:
        raise FilterError(f"a filter of {len(text)} characters; {MAX_LENGTH} are the most")
    groups: list[list[str]] = [[]]
    for word in _WORDS.findall(text):
        if word.lower() == "and":
            groups.append([])
        else:
            groups[-1].append(word)
    return Filter(() if groups == [[]] else tuple(_condition(group) for group in groups))


def _condition(words: list[str]) -> Condition:
    """Read what stands between two `and`: key, sign, word."""
    if not words:
        raise FilterError("there must be a condition on both sides of 'and'")
    key, sign, word, rest = (*words, "", "", "")[:4]
    if key not in KEYS:
        raise FilterError(f"{key!r} is no key; a filter knows {', '.join(KEYS)}")
    if sign not in _SIGNS:
        raise FilterError(f"{sign!r} stands behind {key}; there must be one of {' '.join(_SIGNS)}")
    if not word or word in _SIGNS:
        raise FilterError(f"{word!r} stands behind {key}{sign}; there must be a value")
    if rest:
        raise FilterError(f"{rest!r} stands behind {key}{sign}{word}; conditions are joined by 'and'")
    column, make = KEYS[key]
    return Condition(key, sign, word, make(key, column, sign, word))


def _name(key: str, column: int, sign: str, word: str) -> Test:
    """A name: equal or not, with * and ?."""
    if sign not in {"==", "!="}:
        raise FilterError(f"{sign!r} stands behind {key}; names are == or !=")
    pattern = re.compile(fnmatch.translate(word), re.IGNORECASE).match
    if sign == "==":
        return lambda access: pattern(str(access[column])) is not None
    return lambda access: pattern(str(access[column])) is None


def _number(key: str, column: int, sign: str, word: str) -> Test:
    """A number."""
    try:
        wanted = int(word, 0)
    except ValueError:
        raise FilterError(f"{word!r} is no number; {key} is compared with one, such as 16 or 0x10") from None
    compare = _SIGNS[sign]
    return lambda access: compare(int(access[column]), wanted)


def _one_of(choices: Mapping[str, int]) -> Callable[[str, int, str, str], Test]:
    """A number that has names."""

    def make(key: str, column: int, sign: str, word: str) -> Test:
        if sign not in {"==", "!="}:
            raise FilterError(f"{sign!r} stands behind {key}; names are == or !=")
        if word.lower() not in choices:
            raise FilterError(f"{word!r} is no {key}; there are {', '.join(choices)}")
        wanted, compare = choices[word.lower()], _SIGNS[sign]
        return lambda access: compare(int(access[column]), wanted)

    return make


_DIRECTIONS: Final = {
    "read": Direction.READ,
    "write": Direction.WRITE,
    "r": Direction.READ,
    "w": Direction.WRITE,
}
_SPACES: Final = {space.name.lower(): space for space in Space}
_SIGNS: Final[Mapping[str, Compare]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_WORDS: Final = re.compile(r"==|!=|<=|>=|[<>=!]|[^\s<>=!]+")
_PLACES: Final = ("vm", "device")
_WILD: Final = frozenset("*?[")

KEYS: Final[Mapping[str, tuple[int, Callable[[str, int, str, str], Test]]]] = {
    "vm": (record.VM, _name),
    "vcpu": (record.VCPU, _number),
    "device": (record.DEVICE, _name),
    "register": (record.REGISTER, _name),
    "direction": (record.DIRECTION, _one_of(_DIRECTIONS)),
    "space": (record.SPACE, _one_of(_SPACES)),
    "status": (record.STATUS, _name),
    "address": (record.ADDRESS, _number),
    "size": (record.SIZE, _number),
    "value": (record.VALUE, _number),
}
"""What can be compared: the record's column, and how a condition on it is read."""
