"""What a request is about, where it is no single thing."""

from __future__ import annotations

from attrs import frozen


@frozen
class Nothing:
    """No parameters."""


@frozen
class OfVm:
    """About one VM, or about all."""

    vm: str | None = None
