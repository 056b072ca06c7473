"""A stand-in for hardware that nobody has described yet.

It is climbed step by step, each a word in the machine file: without configuration it reads
ones and tells what the guest touches; `value` is read everywhere; `table` says what is read
where; then another plugin takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import define, field, frozen, validators

from mmiod.device import Context, Device, Region
from mmiod.values import READ, WRITE, Direction, ones

API: Final = 1

TOLD_MAX: Final = 1024
"""Places that are told apart."""


def _by_offset(table: Mapping[str, int]) -> Mapping[int, int]:
    return {int(offset, 0): value for offset, value in table.items()}


@frozen
class StubConfig:
    """How long it is, and what it reads."""

    length: int = field(default=0x1000, validator=[validators.ge(1), validators.le(1 << 40)])
    value: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    """What is read where `table` has nothing; ones, if left out."""
    table: Mapping[str, int] = field(factory=dict)
    """By offset, as text ("0x10"): what is read there, whatever the size."""

    @table.validator
    def _check_table(self, _: object, table: Mapping[str, int]) -> None:
        for offset, value in _by_offset(table).items():
            if not 0 <= offset < self.length:
                raise ValueError(f"offset {offset:#x} is outside its {self.length:#x} bytes")
            if value < 0:
                raise ValueError(f"{value} at {offset:#x} is negative")


@define
class StubState:
    """What was told already: offset, and in bit 0 the direction."""

    told: list[int] = field(factory=list)


class Stub(Device):
    """Writes change nothing.  A larger value than an access has room for is cut.

    The first access of each direction at each offset is told as `stub_accessed`; all of them
    are in the traffic, with their offsets.

    Threat: `told` holds `TOLD_MAX` places; what comes after them is not told.
    """

    main = Region(0x1000, unaligned=True)
    state: StubState
    config: StubConfig

    def __init__(self, context: Context, config: StubConfig | None = None) -> None:
        """Take the length from the configuration."""
        super().__init__(context, config)
        self.resize(self.main, self.config.length)
        self._table = _by_offset(self.config.table)

    @main.on_read
    def _read(self, offset: int, size: int) -> int:
        value = self._table.get(offset, self.config.value)
        answer = ones(size) if value is None else value & ones(size)
        self._tell(offset, size, READ, answer)
        return answer

    @main.on_write
    def _written(self, offset: int, size: int, value: int) -> None:
        self._tell(offset, size, WRITE, value)

    def _tell(self, offset: int, size: int, direction: Direction, value: int) -> None:
        place, told = offset << 1 | direction, self.state.told
        if place not in told and len(told) < TOLD_MAX:
            told.append(place)
            self.context.notify(
                "stub_accessed", direction=direction.name.lower(), offset=offset, size=size, value=value
            )
