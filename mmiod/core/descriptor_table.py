"""Descriptors that go from a program to the one that it becomes by execve(2)."""

from __future__ import annotations

import os
from collections.abc import Iterable

from attrs import define, field


@define(eq=False)
class DescriptorTable:
    """Open descriptors by place; a document names them by that, and so none is missed or leaked."""

    numbers: list[int] = field(factory=list)
    _left: dict[int, int] = field(factory=dict)
    """Those that nobody has taken yet, by place."""

    @classmethod
    def inherited(cls, numbers: Iterable[int]) -> DescriptorTable:
        """What the program before us kept open for us; no child of ours inherits it.

        Raises:
            OSError: a descriptor is not open.
        """
        table = cls(list(numbers))
        for number in table.numbers:
            os.set_inheritable(number, False)
        table._left = dict(enumerate(table.numbers))
        return table

    def keep(self, descriptor: int) -> int:
        """Enter a descriptor; its place."""
        self.numbers.append(descriptor)
        return len(self.numbers) - 1

    def take(self, place: int) -> int:
        """Take a descriptor over, which can be done once.

        Raises:
            ValueError: there is none, or it was taken.
        """
        if place not in self._left:
            raise ValueError(f"descriptor {place}: there are {len(self.numbers)}, and each is taken once")
        return self._left.pop(place)

    def has(self, place: int) -> bool:
        """Whether nobody has taken it."""
        return place in self._left

    def close(self) -> None:
        """Close what nobody has taken."""
        for descriptor in self._left.values():
            os.close(descriptor)
        self._left.clear()
