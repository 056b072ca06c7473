"""What became of the guest's accesses: how many needed a message, a slot, or neither."""

from __future__ import annotations

from attrs import asdict, define


@define
class Tally:
    """Counted by the hypervisor; what took no exit at all never came to it."""

    messages: int = 0
    """Exits of all kinds by the socket."""
    slots: int = 0
    """The same through shared memory."""
    loads: int = 0
    """Reads from the published page."""
    posts: int = 0
    """Writes that nobody waited for."""
    dropped: int = 0
    """Writes to where nobody is."""

    def __str__(self) -> str:
        """For people."""
        return ", ".join(f"{name} {count}" for name, count in asdict(self).items())
