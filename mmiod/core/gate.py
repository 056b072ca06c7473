"""What the lanes of a device task have in common: how they fail, and how they come to rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import trio
from attrs import define, field, frozen

from mmiod.core.backends.faces import BackendFailed
from mmiod.core.ports import Signal

FAILURES: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, BackendFailed)
"""Of a backend: it is opened anew."""

Inject = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs an input of a device in the core and flushes what follows from it."""
InjectNow = Callable[[Callable[[], None]], bool]
"""Does that at once; False if the VM takes no inputs now."""
Soon = Callable[[Callable[[], None]], None]
"""Runs an action in the core behind what it does at the moment."""
Notify = Callable[..., None]


@frozen
class ShortWay:
    """How what takes next to no time is done in the core, without the device task."""

    soon: Soon
    inject: InjectNow


@define(eq=False)
class Gate:
    """A lane works while it is open, and rests while it is shut."""

    _shut: bool = False
    _scope: trio.CancelScope | None = None
    _changed: Signal = field(factory=Signal)

    @property
    def is_open(self) -> bool:
        """Whether anything may begin."""
        return not self._shut

    async def passed(self) -> None:
        """Wait while it is shut."""
        while self._shut:
            await self._changed.wait()

    async def repeat(self, action: Callable[[], Awaitable[None]]) -> NoReturn:
        """Do what ends only by a failure; shutting the gate cancels it, and it begins anew."""
        while True:
            await self.passed()
            try:
                with trio.CancelScope() as self._scope:
                    await action()
            finally:
                self._scope = None
                self._changed.set()

    async def shut(self) -> None:
        """Let nothing begin; what `repeat` does has ended then."""
        self._shut = True
        if self._scope is not None:
            self._scope.cancel()
        while self._scope is not None:
            await self._changed.wait()

    def open(self) -> None:
        """Go on."""
        self._shut = False
        self._changed.set()


def reason_of(group: BaseExceptionGroup[BaseException]) -> str:
    """The first of what went wrong, in words."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
