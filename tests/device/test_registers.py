"""The access modes of bits, held against a model of one bit; fields; masks; errors."""

from __future__ import annotations

import enum
import typing
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.device import Device, Field, Register
from mmiod.device.fields import AccessMode
from mmiod.errors import DeclarationError
from mmiod.testing import Harness

MODES: tuple[AccessMode, ...] = typing.get_args(AccessMode)


def bit_after_write(mode: AccessMode, old: int, written: int) -> int:
    """What one bit of a mode holds after a write that covers it."""
    return {
        "rw": written,
        "w": written,
        "w1c": old & ~written,
        "w1s": old | written,
        "w1t": old ^ written,
    }.get(mode, old)


def bit_as_read(mode: AccessMode, bit: int) -> int:
    """What a guest sees of it."""
    return 0 if mode in {"w", "singlepulse", "reserved"} else bit


def bit_after_read(mode: AccessMode, bit: int) -> int:
    """What a guest's read leaves."""
    return {"rc": 0, "rs": 1}.get(mode, bit)


def probe(register: Register) -> Harness[Device]:
    """A device of this one register."""
    return Harness(type("Probe", (Device,), {"length": 8, "probe": register}))


accesses = st.lists(
    st.tuples(
        st.booleans(), st.sampled_from([(0, 4), (0, 2), (2, 2), (0, 1), (3, 1)]), st.integers(0, 2**32 - 1)
    ),
    max_size=8,
)


@settings(max_examples=150)
@given(
    modes=st.lists(st.sampled_from(MODES), min_size=32, max_size=32),
    reset=st.integers(0, 2**32 - 1),
    script=accesses,
)
def test_every_bit_follows_its_mode_under_whole_and_partial_accesses(
    modes: list[AccessMode], reset: int, script: list[tuple[bool, tuple[int, int], int]]
) -> None:
    """32 bits of any modes and any accesses: reads and stored value are those of 32 one-bit models."""
    fields = {f"bit{number}": Field(number, access=mode) for number, mode in enumerate(modes)}
    harness = probe(Register(0, size=4, fields=fields, reset=reset))
    bits = [reset >> number & 1 for number in range(32)]
    for is_write, (offset, size), value in script:
        covered = range(8 * offset, 8 * (offset + size))
        readable = "rw rc rs r w1c w1s w1t".split()
        if is_write:
            # A register with no bit to write is not there for writes: nothing to compare then.
            harness.write_at(offset, value & (1 << 8 * size) - 1, size)
            for number in covered:
                bits[number] = bit_after_write(modes[number], bits[number], value >> number - 8 * offset & 1)
        else:
            seen = sum(bit_as_read(modes[number], bits[number]) << number - 8 * offset for number in covered)
            assert seen == harness.read_at(offset, size)
            # A read touches the whole register, whichever part the guest asked for.
            if any(mode in readable for mode in modes):
                bits = [bit_after_read(mode, bit) for mode, bit in zip(modes, bits, strict=True)]
        stored = sum(bit << number for number, bit in enumerate(bits))
        assert stored == harness.device.values["probe"]


@pytest.mark.parametrize("mode", MODES)
def test_access_of_the_register_holds_for_all_bits_that_no_field_names(mode: AccessMode) -> None:
    """`access=` alone is the same as a field of that mode over all bits."""
    alone = probe(Register(0, access=mode, reset=0x5A))
    named = probe(Register(0, fields={"all": Field(0, 8, access=mode)}, access="reserved", reset=0x5A))
    for harness in (alone, named):
        harness.write_at(0, 0x0F)
    assert named.device.values["probe"] == alone.device.values["probe"]
    assert named.read_at(0) == alone.read_at(0)
    assert named.device.values["probe"] == alone.device.values["probe"]


def test_bits_outside_the_mask_read_0_and_ignore_writes() -> None:
    """`mask` are the implemented bits."""
    harness = probe(Register(0, mask=0x3C))
    harness.write_at(0, 0xFF)
    assert harness.read_at(0) == 0x3C


class Cause(enum.IntFlag):
    """Flags as a datasheet lists them, one of them two bits wide."""

    LOW = 1
    LEVEL = 6
    HIGH = 0x80


def test_flags_become_fields_with_their_width() -> None:
    """An IntFlag names bits; a member of adjacent bits is one field."""
    register = Register(0, fields=Cause)
    assert {"LOW": 1, "LEVEL": 2, "HIGH": 1} == register.describe(0b1000_0101)


@pytest.mark.parametrize("bits", [0, 0b101])
def test_a_flag_that_is_no_run_of_bits_is_refused(bits: int) -> None:
    """It could not be shown as a field; the message names it."""
    flags = enum.IntFlag("flags", {"ODD": bits})
    with pytest.raises(DeclarationError, match=f"field ODD is {bits:#x}, which are no adjacent bits"):
        Register(0, fields=flags)


class Mailbox(Device):
    """Hooks that tell what they were given."""

    length = 4
    box = Register(0, size=2, mask=0x0FFF)
    ready = Register(2, access="r", reset=3)
    log: list[int]

    @box.on_write
    def _written(self, value: int) -> None:
        self.log.append(value)

    @ready.on_read
    def _read(self) -> int | None:
        self.ready = 0
        return 0x77 if len(self.log) > 2 else None


def mailbox() -> Harness[Mailbox]:
    """A mailbox with an empty log."""
    harness = Harness(Mailbox)
    harness.device.log = []
    return harness


def test_write_hook_gets_the_implemented_bits_and_for_a_part_the_rest_as_stored() -> None:
    """The hook sees the register as it was written, within the mask."""
    harness = mailbox()
    harness.write_at(0, 0xABCD, 2)
    harness.write_at(0, 0x11)
    assert [0xBCD, 0xB11] == harness.device.log
    assert harness.device.box == 0xB11


def test_read_hook_runs_after_the_value_was_taken_and_may_replace_it() -> None:
    """The guest gets the value from before the hook, or what the hook returned."""
    harness = mailbox()
    assert harness.read("ready") == 3
    assert harness.read("ready") == 0
    harness.device.log += [0, 0, 0]
    assert harness.read("ready") == 0x77


def test_reading_the_attribute_has_no_side_effect() -> None:
    """A device and an inspector look without the guest's read hook."""
    harness = mailbox()
    assert harness.device.ready == 3
    assert {"box": 0, "ready": 3} == harness.device.inspect()
    assert harness.device.ready == 3


class Derived(Device):
    """One register that is computed."""

    length = 1
    total = Register(0, access="r", mask=0x0F)

    @total.value
    def _sum(self) -> int:
        return 5


def test_a_derived_register_cannot_be_stored() -> None:
    """Its value has one source; assigning is the author's mistake."""
    device = Harness(Derived).device
    assert device.total == 5
    with pytest.raises(AttributeError, match=r"total is derived by _sum\(\)"):
        device.total = 1


class Alias(Device):
    """One register seen at two offsets."""

    length = 4
    original = Register(0, size=2)
    alias = Register(2, size=2)

    @alias.value
    def _original(self) -> int:
        return self.original

    @alias.on_write
    def _alias_written(self, value: int) -> None:
        self.original = value


def test_a_partial_write_of_a_derived_register_keeps_the_rest_of_its_value() -> None:
    """Its hook gets the `rw` bits that the write does not cover as they read."""
    harness = Harness(Alias)
    harness.write("alias", 0x1234)
    harness.write_at(3, 0xAB)
    assert harness.device.original == 0xAB34


@pytest.mark.parametrize("value", [-1, 0x10000])
def test_a_value_that_does_not_fit_cannot_be_stored(value: int) -> None:
    """The message names the register, the value and the size."""
    with pytest.raises(ValueError, match=r"box: -?0x.* does not fit 2 bytes"):
        mailbox().device.box = value


def test_on_the_class_the_name_gives_the_declaration() -> None:
    """So that a plugin's tools can look at registers without an instance."""
    assert isinstance(Mailbox.box, Register)
    assert Mailbox.box.end == 2


def test_a_field_outside_its_register_is_refused() -> None:
    """The message names field, size and offset."""
    with pytest.raises(DeclarationError, match="field WIDE is outside its register of 1 bytes at 0x4"):
        Register(4, fields={"WIDE": Field(6, 3)})


def test_a_reset_value_outside_its_register_is_refused() -> None:
    """The message names both."""
    with pytest.raises(DeclarationError, match="reset 0x100 does not fit the register at 0x4"):
        Register(4, reset=0x100)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (
            lambda: Register(0, access="w1"),  # type: ignore[arg-type]
            "access 'w1': there are r, w, rw, .*singlepulse, reserved",
        ),
        (
            lambda: Register(0, fields={"F": Field(0, access="ro")}),  # type: ignore[arg-type]
            "access 'ro': there are",
        ),
        (lambda: Register(0, mask=0x1FF), "mask 0x1ff does not fit the register at 0x0"),
        (lambda: Register(-1), "a register of 1 bytes at -0x1"),
        (lambda: Register(0, size=0), "a register of 0 bytes at 0x0"),
    ],
)
def test_declaration_that_cannot_be_right(made: Callable[[], Register], reason: str) -> None:
    """Said where it is written, with what there is instead."""
    with pytest.raises(DeclarationError, match=reason):
        made()
