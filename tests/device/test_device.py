"""The base class: what it collects, what it refuses, what a reset does."""

from __future__ import annotations

import pytest
from attrs import define, field, frozen

from mmiod.device import Context, Device, IrqInput, IrqOutput, Region, Register, Stream, Timer
from mmiod.errors import DeclarationError
from mmiod.testing import Harness


@define
class ClockState:
    """Two fields, of which one has a battery."""

    alarm: list[int] = field(factory=list)
    cmos: int = 7


@frozen
class ClockConfig:
    """One value with a default."""

    century: int = 20


class Clock(Device):
    """A device with everything that a reset touches."""

    length = 4
    survives_reset = frozenset({"nvram", "cmos"})
    state: ClockState
    config: ClockConfig
    control = Register(0, reset=0x80)
    nvram = Register(1, reset=0x01)
    irq = IrqOutput()
    gate = IrqInput()
    tick = Timer()

    def on_reset(self) -> None:
        """Look at what there is."""
        self.control |= self.config.century


def dirty() -> Harness[Clock]:
    """A clock in which everything has changed."""
    harness = Harness(Clock)
    harness.write("control", 0x11)
    harness.write("nvram", 0x22)
    harness.device.state.alarm.append(1)
    harness.device.state.cmos = 9
    harness.device.irq.set_level(True)
    harness.drive("gate", True)
    harness.device.tick.set(1000)
    return harness


def test_a_reset_restores_all_but_what_survives() -> None:
    """Registers and fields of the state; then `on_reset` runs."""
    harness = dirty()
    harness.device.reset()
    assert {"control": 0x80 | 20, "nvram": 0x22} == harness.device.inspect()
    assert ClockState(cmos=9) == harness.device.state


def test_a_reset_lowers_outputs_and_stops_timers_but_inputs_are_others() -> None:
    """An input's level belongs to who drives it."""
    harness = dirty()
    harness.device.reset()
    assert {"irq": False} == harness.levels
    assert {} == harness.context.deadlines
    assert harness.device.gate


def test_state_is_made_anew_for_every_device_and_reset() -> None:
    """No two of them share a list."""
    one, other = Harness(Clock).device, Harness(Clock).device
    one.state.alarm.append(1)
    assert [] == other.state.alarm
    one.reset()
    assert [] == one.state.alarm


def test_a_configuration_is_the_default_or_what_was_given() -> None:
    """Its class is the annotation's."""
    assert ClockConfig is Clock.config_class
    assert Harness(Clock).device.config.century == 20
    assert Harness(Clock, ClockConfig(century=21)).device.config.century == 21


class Raw(Device):
    """Tier 1: two methods."""

    length = 16

    def read(self, offset: int, size: int) -> int:
        """Tell what was asked."""
        return offset * 10 + size

    def write(self, offset: int, size: int, value: int) -> None:
        """Tell what came."""
        self.context.notify("written", offset=offset, size=size, value=value)


def test_tier_1_gets_every_access_as_it_is() -> None:
    """`read` and `write` answer the region `main`."""
    harness = Harness(Raw)
    assert harness.read_at(3, 2) == 32
    harness.write_at(1, 5, 4)
    assert [("written", {"offset": 1, "size": 4, "value": 5})] == harness.context.events
    assert harness.device.answerers["main"].at(harness.device, 0, 0) is None  # type: ignore[arg-type]


class Base(Device):
    """A device to derive from."""

    length = 4
    first = Register(0, reset=1)
    second = Register(1, reset=2)


class Derived(Base):
    """Replaces one register, takes one away, adds one."""

    first = Register(0, reset=9)
    second = None  # type: ignore[assignment]
    third = Register(1, reset=3)


def test_a_subclass_inherits_replaces_and_removes_declarations() -> None:
    """The base class stays as it was."""
    assert {"first": 9, "third": 3} == Harness(Derived).device.inspect()
    assert {"first": 1, "second": 2} == Harness(Base).device.inspect()


@pytest.mark.parametrize("name", ["reset", "values", "lines", "state", "config", "clock", "read"])
def test_names_of_device_itself_are_reserved(name: str) -> None:
    """The message says which, and of what kind the declaration is."""
    with pytest.raises(
        DeclarationError, match=f"{name} is a name of Device itself; call the Register otherwise"
    ):
        type("Bad", (Device,), {"length": 4, name: Register(0)})


@pytest.mark.parametrize("name", ["state", "config"])
def test_an_annotation_that_is_no_attrs_class_is_refused(name: str) -> None:
    """The message names class, attribute and annotation."""
    with pytest.raises(DeclarationError, match=rf"Bad\.{name} is annotated .*int.*, which is no attrs class"):
        type("Bad", (Device,), {"__annotations__": {name: int}})


def test_a_region_answers_by_both_hooks_or_none() -> None:
    """A read hook alone would leave writes without an answer."""
    region = Region(4)

    def hook(_self: Device, _offset: int, _size: int) -> int:
        return 0

    region.on_read(hook)
    with pytest.raises(DeclarationError, match="region bank has one of on_read and on_write; it needs both"):
        type("Bad", (Device,), {"bank": region, "hook": hook})


def test_a_region_of_registers_takes_batches_by_its_registers() -> None:
    """A region's own batch hook belongs to a region's own read and write hooks."""
    region = Region(4)

    def hook(_self: Device, _offset: int, _size: int, _count: int, _stride: int) -> bytes:
        return b""

    region.on_read_batch(hook)
    with pytest.raises(DeclarationError, match="region bank takes batches but has no on_read and on_write"):
        type("Bad", (Device,), {"bank": region, "hook": hook})


def test_a_register_names_its_region_where_there_are_two() -> None:
    """The message counts them."""
    with pytest.raises(DeclarationError, match="word must name its region: Bad has 2"):
        type("Bad", (Device,), {"one": Region(4), "two": Region(4), "word": Register(0)})


def test_a_register_in_another_devices_region_is_refused() -> None:
    """Its bytes would be nobody's."""
    foreign = Region(4)
    with pytest.raises(DeclarationError, match=r"word: region .*is answered by hooks, or not this device's"):
        type("Bad", (Device,), {"own": Region(4), "word": Register(0, region=foreign)})


def test_registers_beside_tier_1_methods_are_refused() -> None:
    """They would never be reached."""
    with pytest.raises(DeclarationError, match="word: region main is answered by hooks"):
        type("Bad", (Raw,), {"word": Register(0)})


def test_overriding_only_one_of_read_and_write_is_refused() -> None:
    """Tier 1 answers both directions."""
    with pytest.raises(DeclarationError, match="Half overrides one of read and write; it needs both"):

        class Half(Device):
            length = 4

            def read(self, offset: int, size: int) -> int:
                return offset + size


def test_a_bank_is_bits_of_another_register() -> None:
    """`has` and `lacks`: there while the bits are set, or clear."""

    class Banked(Device):
        length = 2
        select = Register(0)
        first = Register(1, reset=1, when=select.lacks(0x80))
        second = Register(1, reset=2, when=select.has(0x80))

    banked = Harness(Banked)
    assert banked.read_at(1) == 1
    banked.write("select", 0x80)
    assert banked.read_at(1) == 2


def test_a_device_may_have_a_region_of_another_length() -> None:
    """`resize` in `__init__`: for this device, not for its class."""

    class Sized(Device):
        main = Region(0x10)

        def __init__(self, context: Context, config: object | None = None) -> None:
            super().__init__(context, config)
            self.resize(self.main, 0x20)

        @main.on_read
        def _read(self, offset: int, size: int) -> int:
            return offset + size

        @main.on_write
        def _written(self, offset: int, size: int, value: int) -> None:
            pass

    sized = Harness(Sized)
    assert (0x20, "main", 0x10) == (
        sized.device.regions["main"].length,
        sized.device.regions["main"].name,
        Sized.regions["main"].length,
    )


def test_a_reset_makes_room() -> None:
    """What a stream's backend holds back may come."""

    class Listener(Device):
        length = 1
        serial = Stream()

    assert Harness(Listener).context.readied == ["serial"]
