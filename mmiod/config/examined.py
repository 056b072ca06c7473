"""What tables say where something in them is wrong: all that is wrong, and what is left without that.

So one mistake hides no other: the machines of an mmiod.toml with an unknown key are looked at as
well, and so are all other devices beside one that cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import attrs
import cattrs
from attrs import frozen

from mmiod.errors import ConfigError

T = TypeVar("T")

_NOTHING: Final = object()
_FAILURES: Final = (cattrs.BaseValidationError, ValueError, TypeError)


@frozen
class Examined(Generic[T]):
    """What a file says, or a part of one."""

    value: T | None
    """Without what is wrong; None if nothing is left then."""
    problems: list[str]
    whole: bool
    """Whether `value` lacks nothing, keys aside that nobody knows."""

    def rest(self) -> T:
        """What is left.

        Raises:
            ConfigError: nothing; with every problem.
        """
        if self.value is None:
            raise ConfigError(self.problems)
        return self.value

    def sound(self) -> T:
        """All of it.

        Raises:
            ConfigError: something is wrong; with every problem.
        """
        if self.problems:
            raise ConfigError(self.problems)
        return self.rest()


def examine(
    path: Path, data: Mapping[str, object], kind: type[T], converter: cattrs.Converter
) -> Examined[T]:
    """What tables say: a file's, or those of a place that `path` names.

    First unknown keys are left out: what is told then is told of the rest as well.  After that goes
    what is wrong, until nothing is; of that nothing is told, as it follows from what was.
    """
    problems: dict[str, None] = {}
    left: Any = data
    rounds = 0
    while left is not _NOTHING:
        try:
            return Examined(converter.structure(left, kind), list(problems), whole=rounds <= 1)
        except _FAILURES as error:
            if rounds <= 1:
                problems |= dict.fromkeys(_told(path, error))
            left = _without(left, error, only_unknown=rounds == 0)
        rounds += 1
    return Examined(None, list(problems), whole=False)


# --- what is wrong -----------------------------------------------------------------------------


def _told(path: Path, error: BaseException) -> Iterator[str]:
    for problem in cattrs.transform_error(error, format_exception=_explain):
        yield f"{path}: {_place(problem)}"


def _explain(error: BaseException, kind: type | None) -> str:
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        unknown = ", ".join(sorted(error.extra_fields))
        known = ", ".join(field.name for field in attrs.fields(error.cl))
        return f"unknown {unknown}; known are {known or 'none'}"
    if isinstance(error, KeyError):
        return "is missing"
    if isinstance(error, ValueError | TypeError):
        return str(error)
    return cattrs.v.format_exception(error, kind)


def _place(problem: str) -> str:
    """Turn "reason @ $.vm[0].name" into "vm[0].name: reason"."""
    reason, _, place = problem.rpartition(" @ ")
    place = place.removeprefix("$").removeprefix(".")
    return f"{place}: {reason}" if place else reason


# --- what is left ------------------------------------------------------------------------------


def _without(data: Any, error: BaseException, *, only_unknown: bool) -> Any:  # noqa: ANN401  # of TOML
    """A table, an array or a value without what an error is about; `_NOTHING` where that is all of it.

    `only_unknown`: without keys that nobody knows, and with all else.
    """
    if not isinstance(error, cattrs.ClassValidationError | cattrs.IterableValidationError):
        return data if only_unknown else _NOTHING
    parts = dict(enumerate(data)) if isinstance(data, list) else dict(data)
    inner, others = error.group_exceptions()
    for other in others:
        if isinstance(other, cattrs.ForbiddenExtraKeysError):
            parts = {key: part for key, part in parts.items() if key not in other.extra_fields}
        elif not only_unknown:
            return _NOTHING
    for cause, note in inner:
        place = note.index if isinstance(note, cattrs.IterableValidationNote) else note.name
        if place in parts:
            parts[place] = _without(parts[place], cause, only_unknown=only_unknown)
        elif not only_unknown:
            return _NOTHING  # it lacks what has to be there
    left = {key: part for key, part in parts.items() if part is not _NOTHING}
    return list(left.values()) if isinstance(data, list) else left
