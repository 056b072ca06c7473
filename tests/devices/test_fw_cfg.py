"""fw_cfg: QEMU docs/specs/fw_cfg.rst."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from devices.firmware.fw_cfg import File, FwCfg, FwCfgConfig
from mmiod.device.acpi import Platform
from mmiod.testing import Harness

MIB = 1 << 20
ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16
DESCRIPTOR = 0x8000
TARGET = 0x9000


def fw_cfg(files: Mapping[str, File] | None = None, *, e820: bool = True, cpus: int = 1) -> Harness[FwCfg]:
    """A device of a machine with 1 MiB."""
    return Harness(FwCfg, FwCfgConfig(cpus=cpus, e820=e820, files=files or {}))


def item(harness: Harness[FwCfg], key: int, length: int) -> bytes:
    """The first bytes of an item, by the data port."""
    harness.write("selector", key)
    return bytes(harness.read("data") for _ in range(length))


def directory(harness: Harness[FwCfg]) -> list[tuple[str, int, int]]:
    """(name, key, size) of all files, as firmware finds them."""
    (count,) = struct.unpack(">I", item(harness, 0x19, 4))
    entries = item(harness, 0x19, 4 + 64 * count)[4:]
    unpacked = (struct.unpack(">IHH56s", entries[64 * n : 64 * n + 64]) for n in range(count))
    return [(name.rstrip(b"\0").decode(), key, size) for size, key, _, name in unpacked]


def dma(harness: Harness[FwCfg], control: int, length: int = 0, target: int = TARGET) -> int:
    """One transfer, as SeaBIOS does it: only the low half, big-endian; the control word afterwards."""
    memory = harness.context.memory
    memory.write(DESCRIPTOR, struct.pack(">IIQ", control, length, target))
    harness.write("dma_address_low", int.from_bytes(struct.pack(">I", DESCRIPTOR), "little"))
    (after,) = struct.unpack(">I", memory.read(DESCRIPTOR, 4))
    return int(after)


# --- selector and data port -------------------------------------------------------------


def test_signature_and_id() -> None:
    """Key 0 is "QEMU", key 1 tells the traditional interface and DMA; after the end come zeros."""
    harness = fw_cfg()
    assert item(harness, 0, 6) == b"QEMU\0\0"
    assert item(harness, 1, 5) == b"\x03\0\0\0\0"


def test_selecting_begins_anew() -> None:
    """The offset is 0 after a write of the selector, also of the same key, also for writing."""
    harness = fw_cfg()
    assert item(harness, 0, 2) == b"QE"
    assert item(harness, 0x4000, 4) == b"QEMU"


@pytest.mark.parametrize(("key", "expected"), [(0x05, 3), (0x0F, 3), (0x0E, 0), (0x03, MIB)])
def test_numbers_of_the_machine(key: int, expected: int) -> None:
    """NB_CPUS, MAX_CPUS and BOOT_MENU are words, RAM_SIZE a quadword, all little-endian."""
    assert expected == int.from_bytes(item(fw_cfg(cpus=3), key, 8), "little")


@pytest.mark.parametrize("key", [0x04, 0x0D, 0x1F, 0x8000, 0x8003, 0x3FFF, 0xFFFF])
def test_unknown_keys_read_0(key: int) -> None:
    """SeaBIOS asks some of them."""
    assert item(fw_cfg(), key, 4) == bytes(4)


def test_other_sizes_and_writes_of_the_data_port_do_nothing() -> None:
    """Only a word selects; the data port, read-only, answers bytes at both ports."""
    harness = fw_cfg()
    harness.write("selector", 0)
    harness.write_at(0, 1, 1, "control")
    harness.write_at(1, 1, 1, "control")
    assert [0x51, 0x45] == [harness.read_at(0, 1, "control"), harness.read_at(1, 1, "control")]


@pytest.mark.parametrize("register", ["data", "data_low"])
def test_a_string_is_what_single_bytes_are(register: str) -> None:
    """REP INSB goes on where bytes stopped, and gives zeros behind the end."""
    harness = fw_cfg({"opt/text": File(text="abcdefgh")}, e820=False)
    assert item(harness, 0x20, 2) == b"ab"
    assert harness.read_batch(register, 3) == b"cde"
    assert harness.read(register) == ord("f")
    assert harness.read_batch(register, 5) == b"gh\0\0\0"
    assert harness.read(register) == 0


def test_inspection_does_not_move_the_data_port() -> None:
    """The value is the next byte, and stays it."""
    harness = fw_cfg()
    harness.write("selector", 0)
    assert [0x51, 0x51] == [harness.device.inspect()["data"] for _ in range(2)]


# --- files -------------------------------------------------------------------------------


def test_the_directory_lists_files_sorted_with_keys_from_20h() -> None:
    """Count, then size, key and name of each, big-endian; each key gives the content."""
    files = {
        "opt/z": File(text="last"),
        "etc/boot-fail-wait": File(integer=-1),
        "etc/sercon-port": File(integer=0x3F8, width=2),
        "opt/hex": File(hex="00 ff 10"),
    }
    harness = fw_cfg(files)
    expected = [
        ("etc/boot-fail-wait", 0x20, 4),
        ("etc/e820", 0x21, 20),
        ("etc/sercon-port", 0x22, 2),
        ("opt/hex", 0x23, 3),
        ("opt/z", 0x24, 4),
    ]
    assert expected == directory(harness)
    assert b"\xff\xff\xff\xff\0" == item(harness, 0x20, 5)
    assert b"\xf8\x03\0" == item(harness, 0x22, 3)
    assert b"\x00\xff\x10\0" == item(harness, 0x23, 4)
    assert b"last\0" == item(harness, 0x24, 5)


def test_a_file_may_come_from_a_path(tmp_path: Path) -> None:
    """It is read when the configuration is checked."""
    path = tmp_path / "table"
    path.write_bytes(b"\x01\x02")
    assert File(path=path).data == b"\x01\x02"
    with pytest.raises(ValueError, match="missing: No such file or directory"):
        File(path=tmp_path / "missing")


def test_a_file_is_bounded(tmp_path: Path) -> None:
    """A sparse file of any size is refused without reading all of it."""
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(ValueError, match="more than 16777216 bytes"):
        File(path=path)


def test_e820_tells_the_ram_that_the_hypervisor_mapped() -> None:
    """u64 address, u64 length, u32 type 1: below 4 GiB, and above if there is some."""
    harness = fw_cfg()
    assert struct.pack("<QQI", 0, MIB, 1) == item(harness, 0x20, 20)
    harness.context.memory.above_4g = 5 * MIB
    harness.device.reset()
    assert [("etc/e820", 0x20, 40)] == directory(harness)
    expected = struct.pack("<QQIQQI", 0, MIB, 1, 1 << 32, 5 * MIB, 1)
    assert expected == item(harness, 0x20, 40)


def test_e820_can_be_left_out_or_replaced() -> None:
    """Then firmware asks CMOS, or believes the machine file."""
    assert [] == directory(fw_cfg(e820=False))
    assert [("etc/e820", 0x20, 2)] == directory(fw_cfg({"etc/e820": File(hex="abcd")}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a file needs one of hex, text, path, integer; it has none"),
        ({"hex": "00", "text": ""}, r"it has \['hex', 'text'\]"),
        ({"integer": 256, "width": 1}, "integer 256 does not fit width 1"),
        ({"integer": -129, "width": 1}, "integer -129 does not fit width 1"),
        ({"hex": "0g"}, "non-hexadecimal number"),
    ],
)
def test_a_file_that_is_no_file_is_refused(given: dict[str, str | int], message: str) -> None:
    """When the configuration is checked, with the reason."""
    with pytest.raises(ValueError, match=message):
        File(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "x" * 56])
def test_a_name_that_the_directory_cannot_hold_is_refused(name: str) -> None:
    """55 bytes and a NUL."""
    with pytest.raises(ValueError, match="a file's name has 1 to 55 bytes"):
        FwCfgConfig(files={name: File(text="")})


def test_a_number_of_cpus_that_its_word_cannot_hold_is_refused() -> None:
    """1 to 65535."""
    for cpus in (0, 1 << 16):
        with pytest.raises(ValueError, match="'cpus' must be"):
            FwCfgConfig(cpus=cpus)


# --- DMA -----------------------------------------------------------------------------------


def test_the_dma_port_reads_as_its_signature() -> None:
    """The ASCII of "QEMU CFG", in order of addresses."""
    harness = fw_cfg()
    halves = [harness.read_at(offset, 4, "dma").to_bytes(4, "little") for offset in (0, 4)]
    assert b"QEMU CFG" == b"".join(halves)


def test_dma_selects_and_reads_and_clears_the_control_word() -> None:
    """The key is in bits 31:16; bytes beyond the item are written as 0."""
    harness = fw_cfg()
    harness.context.memory.write(TARGET, b"\xaa" * 9)
    assert dma(harness, SELECT | READ, 8) == 0
    assert harness.context.memory.read(TARGET, 9) == b"QEMU\0\0\0\0\xaa"


def test_dma_goes_on_where_it_was_and_shares_its_place_with_the_data_port() -> None:
    """Without SELECT the offset goes on; SKIP moves it without a transfer."""
    harness = fw_cfg({"f": File(hex="00010203040506070809")}, e820=False)
    assert dma(harness, 0x20 << 16 | SELECT | READ, 2) == 0
    assert dma(harness, SKIP, 3, 0xFFFF_FFFF_FFFF) == 0
    assert dma(harness, READ, 2) == 0
    assert harness.context.memory.read(TARGET, 2) == b"\x05\x06"
    assert harness.read("data") == 7


def test_dma_to_select_alone() -> None:
    """No transfer, no error."""
    harness = fw_cfg()
    harness.write("selector", 1)
    assert dma(harness, SELECT, 4) == 0
    assert harness.read("data") == ord("Q")
    assert harness.context.memory.read(TARGET, 4) == bytes(4)


def test_dma_to_what_is_no_ram_fails() -> None:
    """The error bit of control; a descriptor that is not in RAM does nothing."""
    harness = Harness(FwCfg)
    assert dma(harness, SELECT | READ, 4, (1 << 20) - 2) == ERROR
    harness.write("selector", 0)
    harness.write("dma_address_high", 0)
    harness.write("dma_address_low", 0xFFFF_FFFF)
    assert bytes(harness.read("data") for _ in range(4)) == b"QEMU"


def test_dma_writes_are_refused() -> None:
    """No item allows them: the error bit.  As in QEMU the offset moves on; 0 bytes are no error."""
    harness = fw_cfg()
    assert dma(harness, SELECT | WRITE, 0) == 0
    assert dma(harness, SELECT | WRITE, 3) == ERROR
    assert harness.read("data") == ord("U")


def test_a_transfer_is_bounded() -> None:
    """More than 16 MiB gets the error bit before a byte moves."""
    harness = fw_cfg()
    harness.context.memory.write(TARGET, b"\xaa")
    assert dma(harness, SELECT | READ, (16 << 20) + 1) == ERROR
    assert dma(harness, SELECT | READ, 0xFFFF_FFFF) == ERROR
    assert harness.context.memory.read(TARGET, 1) == b"\xaa"


def test_the_high_half_of_the_address_counts_once() -> None:
    """It is 0 again after a transfer; a descriptor that is not in RAM does nothing."""
    harness = fw_cfg()
    before = bytes(harness.context.memory.ram)
    harness.write("dma_address_high", 0x0100_0000)
    harness.write("dma_address_low", 0)
    assert before == harness.context.memory.ram
    assert dma(harness, SELECT | READ, 4) == 0
    assert harness.context.memory.read(TARGET, 4) == b"QEMU"


@settings(max_examples=80)
@given(
    script=st.lists(
        st.tuples(
            st.integers(0, 0x3F),
            st.sampled_from([0, 0x20, 0x21, 0x22, 0x7FFF]),
            st.integers(0, 40),
        ),
        max_size=12,
    )
)
def test_no_descriptor_moves_more_than_it_says(script: list[tuple[int, int, int]]) -> None:
    """Any control words and lengths: only `length` bytes at the target and the control word change."""
    harness = fw_cfg({"a": File(text="abc"), "b": File(hex="00" * 30)})
    memory = harness.context.memory
    for control, key, length in script:
        memory.write(TARGET, b"\xaa" * 64)
        after = dma(harness, key << 16 | control, length)
        assert after in {0, ERROR}
        assert b"\xaa" * (64 - length) == memory.read(TARGET + length, 64 - length)
        if not control & READ or after:
            assert b"\xaa" * 64 == memory.read(TARGET, 64)
    assert memory.read(0, DESCRIPTOR) == bytes(DESCRIPTOR)


def test_a_reset_selects_the_signature() -> None:
    """As after power-on."""
    harness = fw_cfg()
    harness.write("selector", 5)
    harness.device.reset()
    assert harness.read("data") == ord("Q")


# --- ACPI -------------------------------------------------------------------------------


def test_acpi_adds_the_files_of_the_table_loader() -> None:
    """And reserves ECAM in e820; a file of the same name in the machine file wins."""
    config = FwCfgConfig(acpi=Platform(ecam=0xB000_0000, tpm="crb"), files={"etc/tpm/log": File(hex="00")})
    harness = Harness(FwCfg, config)
    sizes = {name: size for name, _, size in directory(harness)}
    assert {"etc/acpi/rsdp", "etc/acpi/tables", "etc/e820", "etc/table-loader", "etc/tpm/log"} == set(sizes)
    assert (36, 1, 40) == (sizes["etc/acpi/rsdp"], sizes["etc/tpm/log"], sizes["etc/e820"])


def test_more_cpus_than_acpi_can_tell_are_refused() -> None:
    """Before the machine starts; without ACPI there may be more."""
    assert FwCfgConfig(cpus=255).cpus == 255
    with pytest.raises(ValueError, match="255 CPUs; ACPI tables have room for 254"):
        FwCfgConfig(cpus=255, acpi=Platform())
