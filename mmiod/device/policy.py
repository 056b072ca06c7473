"""What a register lets the hypervisor do without a message: what its author declares.

    lsr = Register(5, access="r", published=lambda uart: not uart.errors, unaffected_by=("thr",))
    thr = Register(0, access="w", posted=lambda uart: not uart.ier & IER.ETBEI)
    tmr = Register(8, size=4, access="r")

    @tmr.counts                         # the value is derived from the guest's clock
    def _ticks(self) -> Count: ...

*Published*: a read has no side effect, so its value may be kept where the hypervisor reads it.
*Posted*: nobody waits for a write; it reaches the device before any later access does.
Either may depend on the device's state (a pure function of it): then it is the predicate of this
moment, as of the end of the device's last input.  It is asked after each input; a `Stored` one,
or a bank's, only after those that changed a register of its.

What a posted write may not do, while it is posted: change an interrupt line, reset, place
regions, or ask the hypervisor for something.  `mmiod.testing` looks for that.

A published read waits for the writes that were posted to the same device before, but for
those to the registers named in `unaffected_by`.  So does a posted write whose policy or bank
depends on the device's state; for those to its own register only if it depends on that.

An *echoed* register keeps what is written, in the bits that are stored: a read need not wait
for a write that was posted to it.

A bridge declares a `Window`: reads of its region are reads of another space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from attrs import field, frozen, validators

from mmiod.values import Space

NS_PER_S: Final = 1_000_000_000

Policy = bool | Callable[[Any], bool]
"""Always, never, or while a pure function of the device says so."""


@frozen
class Count:
    """A counter on the guest's clock: it had `value` at `since_ns` and runs with `hz`.

    `bits` is its width: what it holds is modulo 2^bits.  With 0 Hz it stands.
    """

    hz: int = field(validator=validators.in_(range(1 << 34)))
    bits: int = field(default=64, validator=validators.in_(range(1, 65)))
    value: int = 0
    since_ns: int = 0

    def at(self, now_ns: int) -> int:
        """The value at a time of the guest's clock."""
        passed = (now_ns - self.since_ns) * self.hz // NS_PER_S
        return self.value + passed & (1 << self.bits) - 1


def holds(policy: Policy, device: object) -> bool:
    """Whether a policy allows it now."""
    return policy if isinstance(policy, bool) else bool(policy(device))


class Named(Protocol):
    """A register, which has its name once its class is made."""

    name: str


@frozen
class Bank:
    """For `when`: some bits of a stored register are so."""

    register: Named
    bits: int
    value: int

    def __call__(self, device: Any) -> bool:  # noqa: ANN401  # a Device, which this module does not know
        """Whether the bank is there now."""
        return bool(device.values[self.register.name] & self.bits == self.value)


@frozen
class Copies:
    """For `when` in a region with a stride: only the first `number` copies have the register."""

    number: int = field(validator=validators.ge(1))

    def __call__(self, device: Any) -> bool:  # noqa: ANN401  # a Device
        """Whether the copy that is meant is one of them."""
        return bool(device.copy < self.number)


@frozen
class Stored:
    """A predicate that asks stored registers only, these: its answer holds until one of them changes."""

    names: tuple[str, ...]
    test: Callable[[Any], bool]

    def __call__(self, device: Any) -> bool:  # noqa: ANN401  # a Device
        """Whether it is so now."""
        return self.test(device)


@frozen
class Window:
    """Reads of a region are reads of `space`, from `base` on.

    With `latch` they are those of the PCI function and register that this register of the device
    selects, as CF8h does (PCI 3.0, 3.2.2.3.2); ones while its bit 31 is clear.
    """

    space: Space
    base: int = 0
    latch: str = ""
