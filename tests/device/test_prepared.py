"""Prepared accesses do what `guest_read` and `guest_write` do."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from mmiod.device import Device, Register
from mmiod.device.prepared import reading, writing
from mmiod.testing import Harness

VALUES = st.integers(0, 0xFFFF_FFFF)


class Kinds(Device):
    """A register of each access mode, derived ones, and hooks."""

    length = 64
    plain = Register(0, size=4, mask=0x0FFF_FFFF, reset=0x1234)
    read_only = Register(4, size=4, access="r", reset=7)
    write_only = Register(8, size=4, access="w")
    cleared = Register(12, size=4, access="w1c", reset=0xFFFF)
    toggled = Register(16, size=4, access="w1t")
    cleared_by_read = Register(20, size=4, access="rc", reset=0xFF)
    pulse = Register(24, size=4, access="singlepulse")
    derived = Register(28, size=4, access="r")
    hooked = Register(32, size=4)
    several = Register(36, size=4).array(2)

    @derived.value
    def _derived(self) -> int:
        return self.plain ^ 1

    @hooked.on_read
    def _read(self) -> int:
        return self.hooked + 1

    @hooked.on_write
    def _write(self, value: int) -> None:
        self.plain = value & 0xFF

    @several.on_write
    def _written(self, number: int, value: int) -> None:
        self.plain = value >> number


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(Kinds.declared)), st.none() | VALUES), max_size=30))
def test_prepared_accesses_come_to_the_same(steps: list[tuple[str, int | None]]) -> None:
    """Answers and values are equal after every access, whatever the mode."""
    general, prepared = Harness(Kinds).device, Harness(Kinds).device
    for name, value in steps:
        register = Kinds.declared[name]
        if value is None:
            assert register.guest_read(general) == reading(register, prepared)()
        else:
            assert register.guest_write(general, value, 0xFFFF_FFFF) == writing(register, prepared)(value)
        assert general.values == prepared.values, name
