"""The machine's side of a device that is not in service yet: what it does waits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec

from attrs import define, field

from mmiod.device import Region, Request
from mmiod.machine.context import DeviceContext
from mmiod.values import Space

P = ParamSpec("P")


@define(eq=False)
class HeldContext(DeviceContext):
    """A context whose outputs wait for `release`, in order; from then on they go out at once."""

    _held: list[Callable[[], None]] | None = field(factory=list)

    def release(self) -> None:
        """The device is in service."""
        held, self._held = self._held, None
        for output in held or ():
            output()

    def _put(self, output: Callable[P, None], *arguments: P.args, **named: P.kwargs) -> None:
        if self._held is None:
            output(*arguments, **named)
        else:
            self._held.append(partial(output, *arguments, **named))

    def notify(self, event: str, **fields: object) -> None:  # noqa: D102
        self._put(partial(DeviceContext.notify, self, event, **fields))

    def request(self, kind: Request, value: int = 0) -> None:  # noqa: D102
        self._put(DeviceContext.request, self, kind, value)

    def place(self, region: Region, space: Space, base: int | None) -> None:  # noqa: D102
        self._put(DeviceContext.place, self, region, space, base)

    def set_level(self, line: str, level: bool) -> None:  # noqa: D102
        self._put(DeviceContext.set_level, self, line, level)

    def msi(self, address: int, data: int) -> None:  # noqa: D102
        self._put(DeviceContext.msi, self, address, data)

    def arm(self, timer: str, deadline_ns: int | None) -> None:  # noqa: D102
        self._put(DeviceContext.arm, self, timer, deadline_ns)

    def send(self, backend: str, data: bytes) -> None:  # noqa: D102
        self._put(DeviceContext.send, self, backend, data)

    def ready(self, backend: str) -> None:  # noqa: D102
        self._put(DeviceContext.ready, self, backend)

    def ask(self, backend: str, number: int, kind: str, data: bytes) -> None:  # noqa: D102
        self._put(DeviceContext.ask, self, backend, number, kind, data)

    def cancel(self, backend: str, number: int) -> None:  # noqa: D102
        self._put(DeviceContext.cancel, self, backend, number)

    def complete(self, value: int) -> None:  # noqa: D102
        self._put(DeviceContext.complete, self, value)
