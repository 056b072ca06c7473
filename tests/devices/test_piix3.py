"""ISA bridge: identity and interrupt routing as the PIIX3 datasheet (290550) has them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from devices.pci.piix3 import Piix3
from mmiod.testing import Harness

CONFIG = "config_space"
RESERVED = {0, 1, 2, 8, 13}
"""PIRQRC, bits 3:0: numbers that cannot be routed to."""


def high(harness: Harness[Piix3]) -> set[int]:
    """The numbers of asserted IRQs."""
    return {
        int(name.removeprefix("irq")) for name, level in harness.levels.items() if level and name != "intx"
    }


def test_it_is_function_0_of_a_piix3() -> None:
    """VID, DID, PCICMD, PCISTS, CLASSC, and a header type that says there are more functions."""
    harness = Harness(Piix3)
    expected = [0x7000_8086, 0x0200_0007, 0x0601_0000, 0x0080_0000]
    assert expected == [harness.read_at(offset, 4, CONFIG) for offset in (0x00, 0x04, 0x08, 0x0C)]


@pytest.mark.parametrize(
    ("offset", "size", "value"),
    [
        (0x4C, 1, 0x4D),
        (0x4E, 2, 3),
        (0x60, 4, 0x8080_8080),
        (0x69, 1, 2),
        (0x70, 1, 0x80),
        (0xA0, 1, 8),
        (0xA8, 1, 0x0F),
    ],
)
def test_reset_values(offset: int, size: int, value: int) -> None:
    """IORT, XBCS, PIRQRC[A:D], TOM, MBIRQ, SMICNTL, FTMR."""
    assert value == Harness(Piix3).read_at(offset, size, CONFIG)


def test_after_reset_no_pirq_is_routed() -> None:
    """PIRQRC bit 7 disables."""
    harness = Harness(Piix3)
    for line in range(4):
        harness.drive(f"pirq{line}", True)
    assert set() == high(harness)


def test_a_pirq_follows_its_register() -> None:
    """Routing changes move an asserted interrupt; disabling lets it go."""
    harness = Harness(Piix3)
    harness.drive("pirq2", True)
    seen = []
    for value in (10, 11, 0x8B, 11):
        harness.write("pirqrcc", value)
        seen.append(high(harness))
    harness.drive("pirq2", False)
    assert [{10}, {11}, set(), {11}, set()] == [*seen, high(harness)]


def test_seabios_routes_four_pirqs_to_two_irqs_by_one_doubleword() -> None:
    """Two that share an IRQ are OR-ed: it falls with the last."""
    harness = Harness(Piix3)
    harness.write_at(0x60, 0x0B0B_0A0A, 4, CONFIG)
    seen = []
    for line, level in ((0, True), (1, True), (3, True), (0, False), (1, False)):
        harness.drive(f"pirq{line}", level)
        seen.append(high(harness))
    assert [{10}, {10}, {10, 11}, {10, 11}, {11}] == seen


@settings(max_examples=60)
@given(
    routes=st.lists(st.integers(0, 255), min_size=4, max_size=4),
    levels=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_irqs_are_the_or_of_the_pirqs_routed_to_them(routes: list[int], levels: list[bool]) -> None:
    """For any registers and levels; reserved numbers get nothing."""
    harness = Harness(Piix3)
    for number, (route, level) in enumerate(zip(routes, levels, strict=True)):
        harness.write_at(0x60 + number, route, 1, CONFIG)
        harness.drive(f"pirq{number}", level)
    asserted = {route & 15 for route, level in zip(routes, levels, strict=True) if level and not route & 0x80}
    assert asserted - RESERVED == high(harness)


def test_a_reset_ends_routing() -> None:
    """The inputs stay as their devices drive them; the outputs fall."""
    harness = Harness(Piix3)
    harness.write("pirqrca", 5)
    harness.drive("pirq0", True)
    harness.device.reset()
    assert (set(), 0x80) == (high(harness), harness.read("pirqrca"))
