"""ACPI tables and the table loader: decoded by ACPICA's iasl and by a firmware of our own.

Numbers are sections of the ACPI Specification 6.5.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.device.acpi import Platform, aml, files
from mmiod.device.acpi.platform import ISA
from mmiod.values import Space
from tests.device.firmware import Firmware
from tests.device.iasl import check_compiles_to_itself, check_decodes

MIB = 1 << 20
FULL = Platform(
    isa=tuple(ISA), ecam=0xB000_0000, hpet=0xFED0_0000, io_apic=0xFEC0_0000, tpm="crb", pm_timer_width=32
)
PLATFORMS = {"full": (FULL, 3), "bare": (Platform(), 1), "tis": (Platform(tpm="tis"), 254)}


def loaded(platform: Platform = FULL, cpus: int = 1, below_4g: int = 128 * MIB) -> Firmware:
    """The tables after the loader's script."""
    return Firmware(files(platform, cpus, below_4g)).run()


# --- everything, as ACPICA reads it --------------------------------------------------------


@pytest.mark.needs("acpica")
@pytest.mark.parametrize("name", PLATFORMS)
def test_iasl_decodes_every_table_without_complaint(tmp_path: Path, name: str) -> None:
    """Checksums, lengths, subtables; the DSDT compiles to itself without a remark."""
    tables = loaded(*PLATFORMS[name]).tables()
    for signature, data in tables.items():
        check_decodes(tmp_path, signature, data)
    check_compiles_to_itself(tmp_path, "DSDT", tables["DSDT"])


@pytest.mark.needs("acpica")
def test_iasl_complains_of_a_wrong_checksum(tmp_path: Path) -> None:
    """So that silence means something."""
    wrong = bytearray(loaded().tables()["TPM2"])
    wrong[9] ^= 1
    with pytest.raises(AssertionError, match=r"[Ii]ncorrect checksum"):
        check_decodes(tmp_path, "TPM2", bytes(wrong))


@pytest.mark.needs("acpica")
def test_iasl_names_what_the_machine_has(tmp_path: Path) -> None:
    """A look at values that a guest acts on, in ACPICA's words."""
    tables = loaded().tables()
    text = {name: check_decodes(tmp_path, name, data) for name, data in tables.items()}
    expected = {
        "FACP": [
            "PM1A Event Block Address : 00000600",
            "PM1A Control Block Address : 00000604",
            "PM Timer Block Address : 00000608",
            "SCI Interrupt : 0009",
            "Reset Register Supported (V2) : 1",
            "32-bit PM Timer (V1) : 1",
            "Address : 0000000000000CF9",
            "Value to cause reset : 06",
        ],
        "APIC": ["Local Apic ID : 00", "Address : FEC00000", "PC-AT Compatibility : 1"],
        "MCFG": ["Base Address : 00000000B0000000", "Start Bus Number : 00", "End Bus Number : FF"],
        "HPET": ["Address : 00000000FED00000"],
        "TPM2": ["Control Address : 00000000FED40040", "Start Method : 07 [Command Response Buffer]"],
        "DSDT": [
            "Name (_S5, Package (0x04)",
            'EisaId ("PNP0A08")',
            'EisaId ("PNP0501")',
            '"MSFT0101"',
        ],
    }
    missing = [(name, line) for name, lines in expected.items() for line in lines if line not in text[name]]
    assert [] == missing


# --- the loader -----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.builds(
        Platform,
        isa=st.lists(st.sampled_from(list(ISA)), unique=True).map(tuple),
        ecam=st.sampled_from([None, 0xB000_0000, 0xE000_0000]),
        hpet=st.sampled_from([None, 0xFED0_0000]),
        io_apic=st.sampled_from([None, 0xFEC0_0000]),
        tpm=st.sampled_from([None, "crb", "tis"]),
        pirqs=st.tuples(*[st.integers(0, 15)] * 4),
    ),
    st.integers(1, 254),
    st.integers(16, 3000).map(lambda mib: mib * MIB),
)
def test_script_links_and_sums_whatever_is_configured(platform: Platform, cpus: int, below_4g: int) -> None:
    """RSDT and XSDT list the same tables; all sum up to 0; pointers lead to what they are named after."""
    firmware = loaded(platform, cpus, below_4g)
    rsdp = firmware.contents["etc/acpi/rsdp"]
    assert (0, 0) == (sum(rsdp[:20]) & 0xFF, sum(rsdp) & 0xFF)
    tables = firmware.tables()
    rsdt = firmware.table(int.from_bytes(rsdp[16:20], "little"))
    assert [
        struct.unpack("<I4x", tables["XSDT"][at : at + 8])[0] for at in range(36, len(tables["XSDT"]), 8)
    ] == [struct.unpack("<I", rsdt[at : at + 4])[0] for at in range(36, len(rsdt), 4)]
    for signature, data in tables.items():
        assert signature == data[:4].decode()
        assert signature == "FACS" or sum(data) & 0xFF == 0
    optional = {"MCFG": platform.ecam, "HPET": platform.hpet, "TPM2": platform.tpm}
    assert {name for name, there in optional.items() if there} == set(tables) & set(optional)


def test_firmware_areas_are_those_that_are_searched() -> None:
    """The RSDP belongs to the F segment (5.2.5.1); a FACS to a multiple of 64 (5.2.10)."""
    firmware = loaded()
    assert {"etc/acpi/rsdp": 2, "etc/tpm/log": 1, "etc/acpi/tables": 1} == firmware.zones
    facs, dsdt, x_facs, x_dsdt = struct.unpack("<II88xQQ", firmware.tables()["FACP"][36:148])
    assert (0, 0, dsdt) == (facs % 64, x_facs, x_dsdt)


def test_tpm2_points_to_its_log() -> None:
    """TCG ACPI Specification 1.3, table 8: revision 4, 76 bytes; LAML at 64, LASA at 68; 64 KiB of zeros."""
    firmware = loaded()
    table = firmware.tables()["TPM2"]
    laml, lasa = struct.unpack("<IQ", table[64:76])
    assert (76, 4, 65536) == (len(table), table[8], laml)
    assert firmware.addresses["etc/tpm/log"] == lasa
    assert firmware.read(lasa, 65536) == bytes(65536)


def test_without_tpm_there_is_no_log() -> None:
    """Nor a file of it."""
    assert set(files(Platform(), 1, MIB)) == {"etc/acpi/rsdp", "etc/acpi/tables", "etc/table-loader"}


def test_too_many_cpus_are_refused() -> None:
    """A local APIC's ID has 8 bits."""
    with pytest.raises(ValueError, match="255 CPUs; these tables have room for 254"):
        files(Platform(), 255, MIB)


# --- what a machine file may say ---------------------------------------------------------------


def test_places_are_announced_by_the_keys_of_the_file() -> None:
    """So that the machine can say which key is wrong."""
    platform = Platform(isa=("com1", "mouse"), ecam=0xB000_0000, hpet=0xFED0_0000, tpm="tis")
    expected = {
        "isa.com1": (Space.PIO, 0x3F8),
        "smi_command": (Space.PIO, 0xB2),
        "reset_port": (Space.PIO, 0xCF9),
        "ecam": (Space.MMIO, 0xB000_0000),
        "hpet": (Space.MMIO, 0xFED0_0000),
        "tpm": (Space.MMIO, 0xFED4_0000),
    }
    assert expected == platform.announced()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("isa", ("com3",), "'com3': the ISA devices are pic, "),
        ("isa", ("rtc", "rtc"), "'rtc': the ISA devices are pic, .*, each once"),
        ("ecam", 0xB800_0000, "0xb8000000 is no multiple of 0x10000000 below 4 GiB"),
        ("hpet", 1 << 32, "0x100000000 is no multiple of 0x400 below 4 GiB"),
        ("tpm", "fifo", "'tpm' must be in"),
        ("pm_timer_width", 31, "'pm_timer_width' must be in"),
        ("pm_base", 1 << 16, "'pm_base' must be < 65536"),
        ("pirqs", (10, 10, 11, 16), "must be < 16"),
    ],
)
def test_what_cannot_be_told_is_refused(key: str, value: object, message: str) -> None:
    """At load, by the key's name or the value."""
    with pytest.raises(ValueError, match=message):
        Platform(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ecam", "below_4g", "window"),
    [
        (None, 128 * MIB, (0x8000_0000, 0xFEBF_FFFF)),
        (None, 3072 * MIB, (0xC000_0000, 0xFEBF_FFFF)),
        (0xB000_0000, 128 * MIB, (0xC000_0000, 0xFEBF_FFFF)),
    ],
)
def test_bars_have_the_room_that_firmware_gives_them(
    ecam: int | None, below_4g: int, window: tuple[int, int]
) -> None:
    """SeaBIOS src/fw/pciinit.c; never where ECAM is."""
    assert window == Platform(ecam=ecam).pci_window(below_4g)


# --- AML (chapter 20) --------------------------------------------------------------------------


@given(st.integers(0, 2**64 - 1))
def test_an_integer_has_its_shortest_form(value: int) -> None:
    """20.2.3: the prefix tells the bytes; 0 and 1 are opcodes of their own."""
    encoded = aml.integer(value)
    lengths = {0x0A: 1, 0x0B: 2, 0x0C: 4, 0x0E: 8}
    if value < 2:
        assert bytes([value]) == encoded
    else:
        assert value == int.from_bytes(encoded[1:], "little")
        assert len(encoded) == 1 + lengths[encoded[0]]
        assert len(encoded) == 2 or value >= 1 << 4 * lengths[encoded[0]]


@settings(max_examples=60)
@given(st.one_of(st.integers(0, 70), st.integers(4080, 4100), st.integers(0, 1 << 21)))
def test_a_package_length_counts_itself(length: int) -> None:
    """20.2.4: the lead byte's top bits count the bytes that follow; with one byte 6 bits are length."""
    encoded = aml.scope("_SB", bytes(length))
    lead = encoded[1]
    count = lead >> 6
    if count:
        assert lead & 0x30 == 0
        total = lead & 0xF | int.from_bytes(encoded[2 : 2 + count], "little") << 4
    else:
        total = lead
    assert total == len(encoded) - 1
    assert encoded[2 + count : 6 + count] == b"_SB_"


@pytest.mark.parametrize("name", ["", "LONGER", "1COM", "com1", "A B"])
def test_a_name_that_aml_has_not_is_refused(name: str) -> None:
    """20.2.2."""
    with pytest.raises(ValueError, match=f"'{name}' is no AML name"):
        aml.segment(name)


def test_limits_of_the_encoding_are_errors() -> None:
    """Elements of a package, bits of an integer, bytes of a package."""
    with pytest.raises(ValueError, match="256 elements; a package has up to 255"):
        aml.package([aml.integer(0)] * 256)
    with pytest.raises(ValueError, match="0x10000000000000000 is no AML integer"):
        aml.integer(1 << 64)
    with pytest.raises(ValueError, match="268435461 bytes are too long for a package"):
        aml.buffer(bytes(1 << 28))
