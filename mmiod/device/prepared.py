"""What a guest's access of a whole register does, prepared for one device.

It is what `Register.guest_read` and `guest_write` do (the specification, which a property test compares):
what follows from the declaration alone is decided once, here, and not at each access.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from mmiod.device.faces import Pending
from mmiod.device.registers import Register
from mmiod.values import ones

if TYPE_CHECKING:
    from mmiod.device.device import Device

Read = Callable[[], int | Pending]
Write = Callable[[int], Pending | None]


def stored(register: Register) -> bool:
    """Whether a guest's read gives what is stored, and runs nothing."""
    return register.counter is None and not register.reads_change and register.getter is None


def reading(register: Register, device: Device) -> Read:
    """A guest's read of the whole register, side effects included."""
    if register.getter is not None and register.counter is None and not register.reads_change:
        return _derived(getattr(device, register.getter), register.index)
    if not stored(register):
        return partial(register.guest_read, device)
    name, readable = register.name, register.rules.readable
    return lambda: device.values[name] & readable


def _derived(getter: Callable[..., int], index: tuple[int, ...]) -> Read:
    if index:
        return lambda: int(getter(*index))
    return lambda: int(getter())


def writing(register: Register, device: Device) -> Write:
    """A guest's write of the whole register, side effects included."""
    rules = register.rules
    if register.derived or rules.cleared or rules.set or rules.toggled:
        return lambda value: register.guest_write(device, value, ones(register.size))
    name, mask, stored = register.name, register.implemented, rules.stored
    if register.writer is None:

        def store(value: int) -> None:
            values = device.values
            values[name] = values[name] & ~stored | value & mask & stored

        return store
    writer = getattr(device, register.writer)
    hook = partial(writer, *register.index) if register.index else writer

    def write(value: int) -> Pending | None:
        value &= mask
        values = device.values
        values[name] = values[name] & ~stored | value & stored
        answer: Pending | None = hook(value)
        return answer

    return write
