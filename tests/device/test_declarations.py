"""Regions, lines, timers and streams: what they check, and what they are on an instance."""

from __future__ import annotations

import pytest

from mmiod.device import Device, IrqInput, IrqInputs, IrqOutput, IrqOutputs, Region, Register, Stream, Timer
from mmiod.errors import DeclarationError
from mmiod.testing import Harness


class Everything(Device):
    """One of each."""

    low = Region(4)
    high = Region(4)
    irq = IrqOutput()
    outs = IrqOutputs(3)
    gate = IrqInput()
    ins = IrqInputs(3)
    silent = IrqInput()
    tick = Timer()
    serial = Stream()
    word = Register(0, size=4, region=high)
    seen: list[object]

    @irq.on_acknowledge
    def _vector(self) -> int:
        return 0x42

    @gate.on_change
    def _gate_changed(self, level: bool) -> None:
        self.seen.append(("gate", level, self.gate))

    @ins.on_change
    def _input_changed(self, line: int, level: bool) -> None:
        self.seen.append((line, level, self.ins))

    @tick.on_fire
    def _fired(self) -> None:
        self.seen.append(self.clock.now_ns)

    @serial.on_receive
    def _received(self, data: bytes) -> None:
        self.serial.send(data.upper())

    @low.on_read
    def _read(self, offset: int, size: int) -> int:
        return offset << 4 | size

    @low.on_write
    def _written(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))


def everything() -> Harness[Everything]:
    """With nothing seen."""
    harness = Harness(Everything)
    harness.device.seen = []
    return harness


def test_an_output_line_drives_on_changes_only() -> None:
    """Setting a level again is nothing; a pulse is both edges."""
    harness = everything()
    for level in (True, True, False):
        harness.device.irq.set_level(level)
    harness.device.outs[1].pulse()
    expected = [("irq", True), ("irq", False), ("outs1", True), ("outs1", False)]
    assert expected == harness.context.edges


def test_lines_have_the_names_that_wires_write() -> None:
    """An array of lines is numbered."""
    harness = everything()
    assert ["irq", "outs0", "outs1", "outs2"] == sorted(harness.levels)
    assert ["gate", "ins0", "ins1", "ins2", "silent"] == sorted(harness.device.inputs)


def test_an_input_has_its_new_level_when_its_hook_runs() -> None:
    """The device reads lines instead of remembering them; a line without hook only has a level."""
    harness = everything()
    harness.drive("gate", True)
    harness.drive("ins2", True)
    harness.drive("silent", True)
    assert [("gate", True, True), (2, True, (False, False, True))] == harness.device.seen
    assert harness.device.silent


def test_acknowledge_gives_the_vector() -> None:
    """INTA of the line that the device drives."""
    assert everything().acknowledge("irq") == 0x42


def test_a_timer_fires_once_at_its_deadline() -> None:
    """On the guest's clock, and not after it was cancelled."""
    harness = everything()
    harness.device.tick.set(100)
    harness.advance(250)
    harness.device.tick.set(300)
    assert harness.device.tick.deadline_ns == 300
    harness.device.tick.cancel()
    harness.advance(1000)
    assert [100] == harness.device.seen
    assert harness.device.tick.deadline_ns is None


def test_a_stream_carries_bytes_both_ways() -> None:
    """What a backend sends reaches the hook; what the device sends reaches the backend."""
    harness = everything()
    harness.receive("serial", b"ok")
    assert harness.sent("serial") == b"OK"


def test_a_region_with_hooks_is_answered_by_them() -> None:
    """Offsets and sizes are the region's; the other region keeps its registers."""
    harness = everything()
    assert harness.read_at(3, 1, "low") == 0x31
    harness.write_at(2, 0xBEEF, 2, "low")
    harness.write_at(0, 0x12, 4, "high")
    assert [(2, 2, 0xBEEF)] == harness.device.seen
    assert harness.device.word == 0x12


def test_on_the_class_every_name_gives_the_declaration() -> None:
    """The loader and the machine look at classes."""
    kinds = [
        type(getattr(Everything, name)) for name in ("low", "irq", "outs", "gate", "ins", "tick", "serial")
    ]
    assert [Region, IrqOutput, IrqOutputs, IrqInput, IrqInputs, Timer, Stream] == kinds


@pytest.mark.parametrize("length", [0, -4])
def test_a_region_has_bytes(length: int) -> None:
    """The message gives the length."""
    with pytest.raises(DeclarationError, match=f"a region of {length} bytes"):
        Region(length)


@pytest.mark.parametrize("sizes", [(4, 2), (3, 4), (1, 128), (0, 1)])
def test_access_sizes_are_two_ascending_powers_of_two(sizes: tuple[int, int]) -> None:
    """For `valid` and for `implemented`; the message names which."""
    with pytest.raises(DeclarationError, match=r"valid=\(.*\): access sizes are two ascending powers"):
        Region(8, valid=sizes)
    with pytest.raises(DeclarationError, match=r"implemented=\(.*\): access sizes are"):
        Region(8, implemented=sizes)
