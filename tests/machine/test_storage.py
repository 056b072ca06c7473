"""Storage in a machine: it outlives its device, and is in the saved state."""

from __future__ import annotations

import json
import os
import random
import zlib
from base64 import b64encode

import pytest

from mmiod.device import Device, Region, Register, Storage
from mmiod.device.storage import MAX_STORAGE
from mmiod.errors import MachineError, RestoreError
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.handover import NotReady, prepare
from mmiod.machine.restart import restart
from mmiod.machine.state import restore, save
from mmiod.trace.record import REGISTER
from mmiod.values import READ, WRITE, Space
from tests.machine.machines import Rig

BASE = 0x1000_0000


class Sums(Device):
    """Sums the first bytes of its storage when it is told to; fails at 255."""

    main = Region(0x3000)
    extent = Register(0, size=4)
    total = Register(4, size=4, access="r")
    bytes = Storage(0x1000, 0x2000)

    @extent.on_write
    def _sum(self, extent: int) -> None:
        self.extent = extent
        found = self.bytes.read(0, extent)
        if 0xFF in found:
            raise RuntimeError("this device is broken")
        self.total = sum(found)
        self.bytes.write(0x1FF0, self.total.to_bytes(4, "little"))


class Other(Sums):
    """The next generation: the same storage."""


class Larger(Device):
    """Another storage."""

    main = Region(0x3000)
    extent = Register(0, size=4)
    total = Register(4, size=4, access="r")
    bytes = Storage(0x1000, 0x1000)


def machine(plugin: type[Device] = Sums) -> Rig:
    """It, at `BASE`."""
    return Rig({"it": (plugin, DeviceDescription("it", {"main": Placement(Space.MMIO, BASE)}))})


def write(rig: Rig, offset: int, value: int, size: int = 4) -> None:
    """A guest's write."""
    rig.access(Space.MMIO, BASE + offset, size, WRITE, value)


def read(rig: Rig, offset: int, size: int = 4) -> object:
    """A guest's read."""
    return rig.access(Space.MMIO, BASE + offset, size, READ)


def test_an_access_needs_no_hook_and_is_recorded() -> None:
    """By the storage's name, with any size, and the journal has nothing of it."""
    rig = machine()
    host = rig.machine.hosts["it"]
    entries = list(host.journal.entries)
    write(rig, 0x1001, 0x030201, 3)
    assert 0x0003_0201 == read(rig, 0x1001, 4)
    assert entries == host.journal.entries
    assert ["bytes", "bytes"] == [record[REGISTER] for record in rig.records[-2:]]
    assert (1, 1) == (host.statistics.reads, host.statistics.writes)


def test_it_is_there_while_its_device_is_not() -> None:
    """In quarantine registers read ones; storage is RAM, and the restarted device finds it."""
    rig = machine()
    write(rig, 0x1000, 0x0A_0B)
    write(rig, 0, 2)
    assert 0x15 == read(rig, 4)
    write(rig, 0x1002, 0xFF, 1)
    write(rig, 0, 3)
    assert 0xFFFF_FFFF == read(rig, 4)
    assert 0xFF_0A_0B == read(rig, 0x1000)
    write(rig, 0x1002, 0x01, 1)
    restart(rig.machine, "it")
    assert 0x15 == read(rig, 4), "by its journal, which has what it read"
    assert 0x15 == read(rig, 0x2FF0)
    write(rig, 0, 3)
    assert 0x16 == read(rig, 4)


def test_a_reload_leaves_it_where_it_is() -> None:
    """The same descriptor, with the same bytes; nothing is copied."""
    rig = machine()
    write(rig, 0x1000, 0x1234)
    backing = rig.machine.storages["it"]["main"]
    prepare(rig.machine, Other, {"it": None}).commit(2)
    assert 0x1234 == read(rig, 0x1000)
    assert backing is rig.machine.hosts["it"].storages["main"]
    write(rig, 0, 2)
    assert 0x46 == read(rig, 4)


def test_a_reload_with_other_storage_is_refused() -> None:
    """The guest may have it mapped, as it was."""
    rig = machine()
    with pytest.raises(NotReady, match="it: the new class has other storage"):
        prepare(rig.machine, Larger, {"it": None})


def test_nobody_changes_its_length() -> None:
    """Whoever maps it is not killed by who shrinks it."""
    backing = machine().machine.storages["it"]["main"]
    assert 0x3000 == os.fstat(backing.descriptor).st_size
    for length in (0x1000, 0x4000):
        with pytest.raises(PermissionError):
            os.ftruncate(backing.descriptor, length)


def test_it_is_saved_and_restored() -> None:
    """What is in the document replaces all that there is."""
    rig, other = machine(), machine()
    content = random.Random(0).randbytes(0x400)
    rig.machine.storages["it"]["main"].write(0x1C00, content)
    write(other, 0x2800, 0x55)
    restore(other.machine, save(rig.machine))
    backing = other.machine.storages["it"]["main"]
    assert content == backing.read(0x1C00, 0x400)
    assert 0 == read(other, 0x2800)


def test_zeros_cost_nothing() -> None:
    """A page that was never written, or is clear again, is not in the document."""
    rig = machine()
    empty = len(save(rig.machine))
    write(rig, 0x1000, 1)
    assert empty < len(save(rig.machine)) < empty + 200
    write(rig, 0x1000, 0)
    assert empty == len(save(rig.machine))
    rig.machine.reset()
    allocated = os.fstat(rig.machine.storages["it"]["main"].descriptor).st_blocks
    assert 0 == allocated


def test_a_state_without_it_has_zeros() -> None:
    """As one that an older class saved; a state for who gets the bytes leaves them."""
    rig = machine()
    write(rig, 0x1000, 1)
    restore(rig.machine, save(rig.machine, stored=False))
    assert 1 == read(rig, 0x1000)
    document = json.loads(save(rig.machine))
    del document["devices"]["it"]["storages"]
    restore(rig.machine, json.dumps(document).encode())
    assert 0 == read(rig, 0x1000)


def extent(offset: int, length: int, content: bytes = b"") -> dict[str, object]:
    """One of a document."""
    data = zlib.compress(content or bytes(length))
    return {"offset": offset, "length": length, "data": b64encode(data).decode()}


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ({"more": []}, "devices.it.storages.more: the device has none"),
        ({"bytes": [extent(0, 0x2001)]}, "0x2001 bytes at 0x0, behind 0x0 and within 0x2000"),
        ({"bytes": [extent(8, 4), extent(4, 4)]}, r"bytes\[1\]: 0x4 bytes at 0x4, behind 0xc"),
        ({"bytes": [extent(-4, 8)]}, r"bytes\[0\]: 0x8 bytes at -0x4"),
        ({"bytes": [extent(0, 0)]}, r"bytes\[0\]: 0x0 bytes"),
        ({"bytes": [extent(0, 4, bytes(1 << 20))]}, r"bytes\[0\].data: not 4 bytes"),
        ({"bytes": [extent(0, 4, bytes(3))]}, r"bytes\[0\].data: not 4 bytes"),
        ({"bytes": [{"offset": 0, "length": 4, "data": "AAAA"}]}, r"bytes\[0\].data: Error -3"),
        ({"bytes": [{"offset": 0, "length": 4, "data": "?"}]}, r"bytes\[0\].data: .*base64"),
    ],
)
def test_a_document_that_does_not_fit_is_refused(stored: object, reason: str) -> None:
    """As a whole, before anything is touched, and without inflating more than fits."""
    rig = machine()
    write(rig, 0x1000, 7)
    document = json.loads(save(rig.machine))
    document["devices"]["it"]["storages"] = stored
    with pytest.raises(RestoreError, match=reason):
        restore(rig.machine, json.dumps(document).encode())
    assert 7 == read(rig, 0x1000)


def test_a_machine_has_as_much_as_a_state_holds() -> None:
    """Two devices that have their share each have too much together."""

    class Half(Device):
        main = Region(MAX_STORAGE)
        bytes = Storage(0, MAX_STORAGE // 2 + 0x1000)

    device = (Half, DeviceDescription("half"))
    Rig({"one": device})
    with pytest.raises(MachineError, match="devices have 0x2002000 bytes of storage"):
        Rig({"one": device, "two": device})


def test_what_has_no_storage_is_not_mapped() -> None:
    """A machine file that says so is mistaken."""

    class Plain(Device):
        length = 4
        value = Register(0)

    with pytest.raises(MachineError, match="it: mmap: it has no storage"):
        Rig({"it": (Plain, DeviceDescription("it", mmap=True))})
