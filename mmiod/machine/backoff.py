"""When a device that failed is tried again: later each time, and not for ever.

Host time: guest time stands while a VM is paused, and a device is ours to mend meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import define, field

FIRST_NS: Final = 100_000_000
MAX_ATTEMPTS: Final = 5
"""After 0.1, 0.2, 0.4, 0.8 and 1.6 s."""
FORGIVEN_NS: Final = 60_000_000_000
"""What failed longer ago does not count."""


@define(eq=False)
class Backoff:
    """A machine's devices that are out of service; `now` is host ns that do not go back."""

    now: Callable[[], int]
    due: dict[str, int] = field(factory=dict)
    """When each of them is tried again."""
    on_change: Callable[[], None] | None = None
    _failures: dict[str, list[int]] = field(factory=dict)
    """When each device failed, that counts."""
    _tried: set[str] = field(factory=set)
    """What was due and is tried now."""

    def failed(self, device: str) -> bool:
        """A device failed: whether it is tried again."""
        now = self.now()
        counted = [then for then in self._failures.get(device, ()) if now - then < FORGIVEN_NS]
        self._failures[device] = [*counted, now]
        self._tried.discard(device)
        if len(counted) >= MAX_ATTEMPTS:
            self.due.pop(device, None)
            return False
        self.due[device] = now + (FIRST_NS << len(counted))
        if self.on_change is not None:
            self.on_change()
        return True

    def postpone(self, device: str) -> None:
        """It is not ready to be tried."""
        self.due[device] = self.now() + FIRST_NS

    def waits(self, device: str) -> bool:
        """Whether a device that is out of service is tried again."""
        return device in self.due or device in self._tried

    def attempts(self, device: str) -> int:
        """How often it has failed lately."""
        return len(self._failures.get(device, ()))

    def forget(self, device: str) -> None:
        """It is in service, or is not to be tried: by a reload, or with a restored state."""
        self.due.pop(device, None)
        self._failures.pop(device, None)
        self._tried.discard(device)

    def ready(self) -> list[str]:
        """What is due now; it is not any more."""
        now = self.now()
        ready = [device for device, due in self.due.items() if due <= now]
        for device in ready:
            del self.due[device]
        self._tried.update(ready)
        return ready

    @property
    def delay_s(self) -> float:
        """Until the next one is due."""
        return max(0, min(self.due.values()) - self.now()) / 1e9 if self.due else float("inf")
