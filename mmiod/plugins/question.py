"""What the daemon asks the child that checks a plugin's next generation, and what that answers."""

from __future__ import annotations

import json
import marshal
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
from attrs import frozen

from mmiod.errors import PluginError
from mmiod.plugins.loader import Source, line_in

AGAIN: Final = "see what the host lacks, and reload again"
"""The remedy where no process can be started."""

Step = tuple[str, int, int, int, int, int]
"""Region, offset, size, direction, value, count: an access that the guest made."""


@frozen
class Instance:
    """One device that the plugin serves, as plain data."""

    vm: str
    device: str
    config: Mapping[str, object]
    directory: str
    """Of its machine file."""
    saved: Mapping[str, Any]
    """A `Saved`."""
    claims: Sequence[tuple[str, int, int, bool]]
    """Region, space, base, fixed."""
    steps: Sequence[Step]
    now_ns: int
    owes: bool
    """Whether an access waits for it."""

    @property
    def name(self) -> str:
        """As people write it."""
        return f"{self.vm}/{self.device}"


@frozen
class Question:
    """What is to be checked."""

    before: Source
    after: Source
    drop: bool
    """Whether the new class may lack what the old one has."""
    deadline_ns: int
    instances: Sequence[Instance]

    def encode(self) -> bytes:
        """For the child's standard input."""
        return marshal.dumps(attrs.asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> Question:
        """From our parent, which runs the same Python."""
        found = marshal.loads(data)  # noqa: S302
        before, after = Source(**found.pop("before")), Source(**found.pop("after"))
        instances = [Instance(**instance) for instance in found.pop("instances")]
        return cls(before, after, instances=instances, **found)


@frozen
class Verdict:
    """Why a generation is rejected (`reason`), or what it would change."""

    reason: str | None = None
    remedy: str = ""
    file: str = ""
    line: int = 0
    accesses: int = 0
    """Repeated for the comparison."""
    differing: int = 0
    differences: Sequence[str] = ()
    """The first of them, in words."""

    def encode(self) -> bytes:
        """For the child's standard output."""
        return json.dumps(attrs.asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Verdict:
        """From the child.

        Raises:
            ValueError, TypeError: that is no verdict.
        """
        return cls(**json.loads(data))


class Rejected(PluginError):
    """A generation is not fit to serve."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict

    @classmethod
    def at(
        cls, files: Mapping[str, bytes], error: BaseException | None, reason: str, remedy: str
    ) -> Rejected:
        """For what was raised in one of a plugin's files."""
        file, line = ("", 0) if error is None else line_in(files, error)
        return cls(Verdict(reason, remedy, file, line))
