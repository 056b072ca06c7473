"""What a device is at one moment, as plain data: what its next generation begins with."""

from __future__ import annotations

from typing import Any

from attrs import define


@define
class Saved:
    """A device by the names of its class; `Device.migrate` may change all of it."""

    schema: int
    registers: dict[str, int]
    state: dict[str, Any]
    """The fields of its `state`: lists, tables, numbers, texts and bytes."""
    lines: dict[str, bool]
    inputs: dict[str, bool]
    timers: dict[str, int]
    """Deadlines in ns of guest time of those that are set."""
    requests: dict[str, int]
    """Number of the last request, by service."""
