"""Capabilities of PCI functions: the list, MSI, MSI-X, PCI Express.

Numbers are sections of the PCI Local Bus Specification 3.0, where no other one is named.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.device.pci import Bar, Capability, Command, Identity, Msi, MsiX, PcieFunction, PciFunction
from mmiod.errors import DeclarationError
from mmiod.testing import Harness

CONFIG = "config_space"
COMMAND, STATUS, POINTER = 0x04, 0x06, 0x34
MSI, MSIX = 0x50, 0x70
ENABLE_MSI, ENABLE_MSIX, FUNCTION_MASK = 1, 1 << 15, 1 << 14
ADDRESS, DATA = 0xFEE0_1000, 0x4100


class Card(PciFunction):
    """Messages of both kinds, as many as there can be of one and more than a word of the other."""

    identity = Identity(0x1AF4, 0x1234, 0x028000)
    interrupt_pin_number = 1
    vectors = Bar(0x1000, number=1)
    msi = Msi(MSI, vectors=32, masking=True)
    msix = MsiX(MSIX, vectors=66, table=(vectors, 0), pending=(vectors, 0x800))


class Express(PcieFunction):
    """A PCI Express function with nothing but what each has, and MSI in its shortest form."""

    msi = Msi(0x80, wide=False)


def card(command: int = Command.BUS_MASTER) -> Harness[Card]:
    """A card whose guest lets it master the bus."""
    harness = Harness(Card)
    write(harness, COMMAND, command, 2)
    return harness


def read(harness: Harness[Card], offset: int, size: int = 4) -> int:
    """Configuration read."""
    return harness.read_at(offset, size, CONFIG)


def write(harness: Harness[Card], offset: int, value: int, size: int = 4) -> None:
    """Configuration write."""
    harness.write_at(offset, value, size, CONFIG)


def enable_msi(harness: Harness[Card], allocated: int = 5, data: int = DATA) -> None:
    """Address, data, 2^allocated vectors, go: at the offsets of 6.8.1, 64-bit form."""
    write(harness, MSI + 4, ADDRESS)
    write(harness, MSI + 8, 0x1)
    write(harness, MSI + 12, data, 2)
    write(harness, MSI + 2, allocated << 4 | ENABLE_MSI, 2)


def enable_msix(harness: Harness[Card], vectors: Mapping[int, int], control: int = ENABLE_MSIX) -> None:
    """Entries of the table (6.8.2.6), unmasked; data by vector."""
    for vector, data in vectors.items():
        for offset, value in enumerate((ADDRESS, 0, data, 0)):
            harness.write_at(16 * vector + 4 * offset, value, 4, "vectors")
    write(harness, MSIX + 2, control, 2)


# --- the list (6.7) -----------------------------------------------------------------------


def walked(harness: Harness[Card]) -> list[tuple[int, int]]:
    """(offset, ID) of all capabilities, as software finds them."""
    found, at = [], read(harness, POINTER, 1)
    while at:
        found.append((at, read(harness, at, 1)))
        at = read(harness, at + 1, 1)
    return found


def test_list_holds_what_is_declared() -> None:
    """IDs of appendix H; status bit 4 says that there is a list (6.2.3)."""
    harness = card()
    assert [(MSI, 0x05), (MSIX, 0x11)] == walked(harness)
    assert read(harness, STATUS, 2) == 0x10


def test_subclass_adds_to_the_list() -> None:
    """The capability that was the last one points to the new one; the base class keeps its list."""
    longer: type[Card] = type("Longer", (Card,), {"more": Capability(0x90)})
    harness = Harness(longer)
    assert [(MSI, 0x05), (MSIX, 0x11), (0x90, 0)] == walked(harness)
    assert [(MSI, 0x05), (MSIX, 0x11)] == walked(card())


def test_function_without_capabilities_says_so() -> None:
    """Pointer and status bit are 0."""
    harness: Harness[PciFunction] = Harness(type("Plain", (PciFunction,), {}))
    assert (0, 0) == (harness.read_at(POINTER, 1, CONFIG), harness.read_at(STATUS, 2, CONFIG))


@pytest.mark.parametrize("offset", [0x3C, 0x42, 0x100])
def test_capability_outside_of_its_place_is_refused(offset: int) -> None:
    """6.7: a doubleword behind the header, in the first 256 bytes."""
    with pytest.raises(DeclarationError, match=f"a capability at {offset:#x}: no multiple of 4"):
        Capability(offset)


def test_capabilities_that_overlap_are_refused() -> None:
    """They are registers like all others."""
    with pytest.raises(DeclarationError, match="both claim reads at offset 0x5"):
        type("Clash", (PciFunction,), {"one": Msi(0x50), "two": Msi(0x58)})


# --- MSI (6.8.1) -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wide", "masking", "control", "data", "end"),
    [
        (False, False, 0x0006, 8, 0x0A),
        (True, False, 0x0086, 12, 0x0E),
        (False, True, 0x0106, 8, 0x14),
        (True, True, 0x0186, 12, 0x18),
    ],
)
def test_four_forms_have_their_registers(
    wide: bool, masking: bool, control: int, data: int, end: int
) -> None:
    """Figure 6-9: message control tells which; reserved bits and what is behind read 0."""
    plugin = type("Form", (PciFunction,), {"msi": Msi(MSI, vectors=8, wide=wide, masking=masking)})
    harness: Harness[PciFunction] = Harness(plugin)
    assert control == harness.read_at(MSI + 2, 2, CONFIG)
    for offset in range(0, 0x20, 4):
        harness.write_at(MSI + offset, 0xFFFF_FFFF, 4, CONFIG)
    assert control | 0x71 == harness.read_at(MSI + 2, 2, CONFIG)
    assert harness.read_at(MSI + 4, 4, CONFIG) == 0xFFFF_FFFC
    assert harness.read_at(MSI + data, 4, CONFIG) == 0xFFFF
    if wide:
        assert harness.read_at(MSI + 8, 4, CONFIG) == 0xFFFF_FFFF
    if masking:
        assert harness.read_at(MSI + data + 4, 8, CONFIG) == 0xFF
    assert harness.read_at(MSI + end, 2, CONFIG) == 0


def test_message_is_the_address_and_the_data_with_the_vector_in_its_low_bits() -> None:
    """6.8.1.6: with 8 vectors allocated the function may change 3 bits."""
    harness = card()
    enable_msi(harness, allocated=3, data=0x41FF)
    assert harness.device.send_message(5)
    assert [(0x1_FEE0_1000, 0x41FD)] == harness.context.messages


def test_more_vectors_than_allocated_share() -> None:
    """The guest may allocate fewer than the function asks for; messages still have only its bits."""
    harness = card()
    enable_msi(harness, allocated=1)
    for vector in (0, 1, 2, 31):
        harness.device.send_message(vector)
    assert [DATA, DATA + 1, DATA, DATA + 1] == [data for _, data in harness.context.messages]


def test_masked_message_is_pending_until_unmasked() -> None:
    """6.8.1.7-9: once, however often it was raised; the other vectors go on."""
    harness = card()
    enable_msi(harness)
    write(harness, MSI + 16, 1 << 7 | 1 << 31)
    for vector in (31, 7, 7, 8):
        harness.device.send_message(vector)
    assert [DATA + 8] == [data for _, data in harness.context.messages]
    assert read(harness, MSI + 20) == 1 << 7 | 1 << 31
    write(harness, MSI + 16, 1 << 31)
    assert [DATA + 8, DATA + 7] == [data for _, data in harness.context.messages]
    assert read(harness, MSI + 20) == 1 << 31


def test_no_message_leaves_before_it_is_enabled() -> None:
    """The function learns it, and uses its pin."""
    harness = card()
    assert not harness.device.send_message(0)
    assert [] == harness.context.messages


def test_no_message_leaves_without_bus_mastering() -> None:
    """6.2.2 bit 2: it is pending until the guest lets the function write."""
    harness = card(command=0)
    enable_msi(harness)
    assert harness.device.send_message(3)
    assert ([], 8) == (harness.context.messages, read(harness, MSI + 20))
    write(harness, COMMAND, Command.BUS_MASTER, 2)
    assert [(0x1_FEE0_1000, DATA + 3)] == harness.context.messages


def test_pin_and_messages_exclude_each_other() -> None:
    """6.8.1.3: with MSI enabled INTx# is not used; it returns when messages are switched off."""
    harness = card()
    harness.device.set_intx(True)
    levels = [harness.levels["intx"]]
    enable_msi(harness)
    levels.append(harness.levels["intx"])
    write(harness, MSI + 2, 0, 2)
    levels.append(harness.levels["intx"])
    assert [True, False, True] == levels


def test_number_of_vectors_must_be_expressible() -> None:
    """6.8.1.3: 1, 2, 4, 8, 16 or 32."""
    with pytest.raises(DeclarationError, match="MSI with 3 vectors: a power of two up to 32"):
        Msi(0x50, vectors=3)


# --- MSI-X (6.8.2) ---------------------------------------------------------------------------


def test_capability_says_where_table_and_pending_bits_are() -> None:
    """6.8.2.3-5: size minus one; offset and BAR; only enable and function mask can be written."""
    harness = card()
    for offset in range(0, 12, 4):
        write(harness, MSIX + offset, 0xFFFF_FFFF)
    assert [0xC041_0011, 0x0000_0001, 0x0000_0801] == [read(harness, MSIX + offset) for offset in (0, 4, 8)]


def test_entries_are_masked_after_reset() -> None:
    """6.8.2.9: vector control is 1, everything else of the table 0."""
    harness = card()
    table = [harness.read_at(offset, 4, "vectors") for offset in range(0, 66 * 16, 4)]
    assert [0, 0, 0, 1] * 66 == table


def test_every_vector_has_a_message_of_its_own() -> None:
    """6.8.2.6-8: address and data are the entry's, all 32 bits of it."""
    harness = card()
    enable_msix(harness, {0: 0x1111, 65: 0xFFFF_FFFF})
    harness.write_at(65 * 16 + 4, 0x2, 4, "vectors")
    for vector in (65, 0):
        assert harness.device.send_message(vector)
    assert [(0x2_FEE0_1000, 0xFFFF_FFFF), (ADDRESS, 0x1111)] == harness.context.messages


@pytest.mark.parametrize("vector", [-1, 66])
def test_vector_that_is_not_there_is_the_device_models_mistake(vector: int) -> None:
    """A plugin that does this is quarantined."""
    harness = card()
    enable_msix(harness, {})
    with pytest.raises(ValueError, match=f"MSI-X vector {vector}: there are 66"):
        harness.device.send_message(vector)


def test_function_mask_holds_all_vectors() -> None:
    """6.8.2.3 bit 14: pending bits show what waits; they leave lowest first, once each."""
    harness = card()
    enable_msix(harness, {1: 0x11, 64: 0x22}, ENABLE_MSIX | FUNCTION_MASK)
    for vector in (64, 1, 64):
        harness.device.send_message(vector)
    assert (2, 1) == (harness.read_at(0x800, 8, "vectors"), harness.read_at(0x808, 8, "vectors"))
    write(harness, MSIX + 2, ENABLE_MSIX, 2)
    assert [0x11, 0x22] == [data for _, data in harness.context.messages]
    assert (0, 0) == (harness.read_at(0x800, 8, "vectors"), harness.read_at(0x808, 8, "vectors"))


def test_pending_bits_are_read_only() -> None:
    """6.8.2.10: software must not write them, and if it does nothing happens."""
    harness = card()
    enable_msix(harness, {0: 1}, ENABLE_MSIX | FUNCTION_MASK)
    harness.write_at(0x800, 0xFFFF_FFFF, 4, "vectors")
    write(harness, MSIX + 2, ENABLE_MSIX, 2)
    assert [] == harness.context.messages


def test_reset_forgets_messages() -> None:
    """Enable bits, table and pending bits are as after power-on."""
    harness = card()
    enable_msix(harness, {0: 1}, ENABLE_MSIX | FUNCTION_MASK)
    harness.device.send_message(0)
    harness.device.reset()
    assert (0x41, 0, 1) == (
        read(harness, MSIX + 2, 2),
        harness.read_at(0x800, 8, "vectors"),
        harness.read_at(12, 4, "vectors"),
    )
    assert not harness.device.send_message(0)


def test_place_of_the_table_must_be_memory() -> None:
    """6.8.2: a quadword of a memory BAR."""
    ports = Bar(0x100, number=0, io=True)
    with pytest.raises(DeclarationError, match="MSI-X at 0x0 of BAR 0: no quadword of memory"):
        MsiX(0x50, vectors=1, table=(ports, 0), pending=(ports, 0x80))
    memory = Bar(0x100, number=0)
    with pytest.raises(DeclarationError, match="MSI-X at 0x84 of BAR 0"):
        MsiX(0x50, vectors=1, table=(memory, 0), pending=(memory, 0x84))
    with pytest.raises(DeclarationError, match="MSI-X with 2049 vectors: 1 to 2048"):
        MsiX(0x50, vectors=2049, table=(memory, 0), pending=(memory, 0x80))


VECTORS = (0, 1, 63, 64, 65)
STEPS = st.one_of(
    st.tuples(st.just("raise"), st.sampled_from(VECTORS), st.just(0)),
    st.tuples(st.just("mask"), st.sampled_from(VECTORS), st.integers(0, 1)),
    st.tuples(st.just("control"), st.just(0), st.sampled_from([0, ENABLE_MSIX, ENABLE_MSIX | FUNCTION_MASK])),
    st.tuples(st.just("command"), st.just(0), st.sampled_from([0, int(Command.BUS_MASTER)])),
)


@settings(max_examples=100)
@given(st.lists(STEPS, max_size=40))
def test_no_message_is_lost_or_doubled(steps: list[tuple[str, int, int]]) -> None:
    """What was raised since the last message of its vector is pending or has left: 6.8.2.10."""
    harness = card()
    enable_msix(harness, dict.fromkeys(VECTORS, 0) | {vector: vector for vector in VECTORS}, 0)
    raised: set[int] = set()
    masked: set[int] = set()
    control, command = 0, int(Command.BUS_MASTER)
    for action, vector, value in steps:
        harness.context.messages.clear()
        if action == "raise" and harness.device.send_message(vector):
            raised.add(vector)
        elif action == "mask":
            masked = masked | {vector} if value else masked - {vector}
            harness.write_at(16 * vector + 12, value, 4, "vectors")
        elif action == "control":
            control = value
            write(harness, MSIX + 2, value, 2)
        elif action == "command":
            command = value
            write(harness, COMMAND, value, 2)
        free = raised - masked if control == ENABLE_MSIX and command else set()
        assert sorted(free) == [data for _, data in harness.context.messages]
        raised -= free
        low, high = harness.read_at(0x800, 8, "vectors"), harness.read_at(0x808, 8, "vectors")
        assert sum(1 << vector for vector in raised) == high << 64 | low


# --- PCI Express (PCI Express Base 3.0) ------------------------------------------------------


def test_express_function_has_4_kib_and_no_extended_capabilities() -> None:
    """7.2, 7.9.1: a header of zeros at 100h ends the list before it began."""
    harness = Harness(Express)
    assert Express.regions[CONFIG].length == 4096
    assert harness.read_at(0x100, 4, CONFIG) == 0
    assert PciFunction.regions[CONFIG].length == 256


def test_express_capability_is_that_of_an_integrated_endpoint() -> None:
    """7.8.2-5: version 2, type 9, role-based error reporting; control has its reset value."""
    harness = Harness(Express)
    assert harness.read_at(POINTER, 1, CONFIG) == 0x40
    expected = [0x0092_8010, 0x0000_8000, 0x0000_2810]
    assert expected == [harness.read_at(0x40 + offset, 4, CONFIG) for offset in (0, 4, 8)]


def test_device_control_keeps_its_bits_and_status_is_cleared_by_ones() -> None:
    """7.8.4, 7.8.5; links, slots and the second set read 0."""
    harness = Harness(Express)
    harness.device.values["express_device_status"] = 0xF
    harness.write_at(0x48, 0x0003_FFFF, 4, CONFIG)
    assert harness.read_at(0x48, 4, CONFIG) == 0x000C_78FF
    for offset in range(0x4C, 0x7C, 4):
        harness.write_at(offset, 0xFFFF_FFFF, 4, CONFIG)
        assert harness.read_at(offset, 4, CONFIG) == 0


def test_unmaskable_message_is_lost_while_the_function_may_not_write() -> None:
    """Without pending bits there is nowhere to keep it."""
    harness = Harness(Express)
    harness.write_at(0x84, ADDRESS, 4, CONFIG)
    harness.write_at(0x88, 0x31, 2, CONFIG)
    harness.write_at(0x82, ENABLE_MSI, 2, CONFIG)
    harness.device.send_message()
    harness.write_at(COMMAND, Command.BUS_MASTER, 2, CONFIG)
    assert [] == harness.context.messages
    harness.device.send_message()
    assert [(ADDRESS, 0x31)] == harness.context.messages
