"""The stand-in for unknown hardware, step by step."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.pseudo.stub import TOLD_MAX, Stub, StubConfig
from mmiod import config
from mmiod.errors import ConfigError
from mmiod.machine.description import DeviceDescription
from mmiod.testing import Harness


def configured(**keys: object) -> Harness[Stub]:
    """A stub as the machine file's `config` makes it."""
    described = DeviceDescription("pseudo/stub", config=keys)
    return Harness(Stub, config.configure(Stub, described, Path("/")))


def test_without_configuration_it_reads_ones_and_tells() -> None:
    """Each direction at each offset once, with what was read or written."""
    stub = Harness(Stub)
    assert [0xFFFF, 0xFF, 0xFF] == [stub.read_at(0x10, 2), stub.read_at(0x10), stub.read_at(0x11)]
    stub.write_at(0x10, 5, 4)
    expected = [("read", 0x10, 2, 0xFFFF), ("read", 0x11, 1, 0xFF), ("write", 0x10, 4, 5)]
    found = [tuple(fields.values()) for name, fields in stub.context.events if name == "stub_accessed"]
    assert expected == found


def test_a_fixed_value_is_read_everywhere() -> None:
    """Cut to the access; nothing that is written changes it."""
    stub = configured(value=0x1234)
    stub.write_at(0, 0, 4)
    assert [0x1234, 0x1234, 0x34] == [stub.read_at(0, 4), stub.read_at(8, 2), stub.read_at(9)]


def test_a_table_says_what_is_read_where() -> None:
    """Everywhere else it is `value`, or ones."""
    table = {"0x10": 0x1AF4, "4": 1}
    stub = configured(table=table)
    assert [0x1AF4, 1, 0xFFFF_FFFF] == [stub.read_at(0x10, 4), stub.read_at(4, 4), stub.read_at(0, 4)]
    assert configured(table=table, value=0).read_at(0, 4) == 0


def test_its_length_is_the_machine_files() -> None:
    """Each device has its own."""
    assert {0x20: 0x20, 0x1000: 0x1000} == {
        length: configured(length=length).device.regions["main"].length for length in (0x20, 0x1000)
    }
    assert Stub.main.length == 0x1000


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"length": 0}, "length"),
        ({"table": {"0x1000": 1}}, "offset 0x1000 is outside its 0x1000 bytes"),
        ({"table": {"0x10": -1}}, "-1 at 0x10 is negative"),
        ({"table": {"ten": 1}}, "ten"),
        ({"value": -1}, "value"),
    ],
)
def test_what_cannot_be_is_refused(keys: dict[str, object], reason: str) -> None:
    """Before the machine starts, with the place."""
    with pytest.raises(ConfigError, match=reason):
        configured(**keys)


def test_a_guest_that_touches_everything_is_told_of_no_more_than_a_bound() -> None:
    """Nothing grows behind it."""
    stub = Harness(Stub, StubConfig(length=1 << 20))
    for offset in range(2 * TOLD_MAX):
        stub.read_at(offset)
    assert TOLD_MAX == len(stub.context.events) == len(stub.device.state.told)
