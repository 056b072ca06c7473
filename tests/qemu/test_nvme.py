"""The NVMe controller: QEMU's, on the same image, answers the same driver alike.

Where NVM Express 1.4 is on our side it is not asked: a completion queue that cannot be deleted
(5.5.1), a log page that does not exist (5.14.2), a namespace that is not active (6.1.4), the
default of the arbitration burst, what CAP offers.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final, cast

import pytest
from attrs import define

from devices.pci.nvme import Nvme
from mmiod.testing import Harness
from tests.devices.nvmes import ADMIN, DATA, ENABLE, IO, LIST, PAGE, SECTORS, Completion, Host, host
from tests.qemu.sides import Access, Reference, reference

pytestmark = pytest.mark.needs("qemu")

SLOT, BAR = 0x10, 0xE000_0000
PATIENCE_S: Final = 60
NOWHERE: Final = 300
"""A namespace that neither can have: QEMU has room for 256."""


@define(eq=False)
class Theirs:
    """QEMU's controller and its RAM, as a harness has them."""

    qemu: Reference

    @property
    def context(self) -> Theirs:
        """It has the memory."""
        return self

    @property
    def memory(self) -> Theirs:
        """It reads and writes, by address; `read` and `write` of names are the registers'."""
        return self

    def read(self, place: str | int, length: int = 0) -> int | bytes:
        """A register by name, or RAM."""
        if isinstance(place, str):
            return self._registers(place, None)
        count = -(-length // 8)
        words = self.qemu.run([Access("mmio", place + 8 * n, 8, None) for n in range(count)])
        return struct.pack(f"<{count}Q", *words)[:length]

    def write(self, place: str | int, value: int | bytes) -> None:
        """A register by name, or RAM."""
        if isinstance(value, int):
            self._registers(str(place), value)
        else:
            gpa = int(place)
            self.qemu.run([Access("mmio", gpa + n, 1, byte) for n, byte in enumerate(value)])

    def _registers(self, name: str, value: int | None) -> int:
        register = Nvme.declared[name]
        if register.region is Nvme.registers:
            return self.qemu.run([Access("mmio", BAR + register.offset, register.size, value)])[0]
        return self.configuration(register.offset, register.size, value)

    def configuration(self, offset: int, size: int, value: int | None) -> int:
        """By mechanism #1."""
        address = Access("port", 0xCF8, 4, 1 << 31 | SLOT << 11 | offset & ~3)
        return self.qemu.run([address, Access("port", 0xCFC + offset % 4, size, value)])[1]


class Patient(Host):
    """A driver of a controller that takes its time."""

    def serve(self, count: int = 0) -> None:
        """The image answers by itself."""

    def completed(self, queue: int) -> list[Completion]:
        """At least one."""
        end = time.monotonic() + PATIENCE_S
        while not (found := super().completed(queue)):
            assert time.monotonic() < end
        return found


@pytest.fixture
def ours() -> Host:
    """Enabled, with a pair of I/O queues."""
    return host()


@pytest.fixture
def theirs(tmp_path: Path, ours: Host) -> Iterator[Host]:
    """The same."""
    image = tmp_path / "disk.img"
    image.write_bytes(ours.image)
    options = (
        *("-drive", f"file={image},format=raw,if=none,id=disk,cache=unsafe"),
        *("-device", f"nvme,serial=mmiod,drive=disk,max_ioqpairs=8,addr={SLOT:x}.0"),
    )
    with reference(tmp_path, *options) as qemu:
        controller = Theirs(qemu)
        controller.configuration(0x10, 4, BAR)
        made = Patient(cast("Harness[Nvme]", controller))
        made.place()
        assert 1 == made.enable()
        made.create()
        yield made


def test_registers(ours: Host, theirs: Host) -> None:
    """Identity, version and status; the mask; what a controller reset leaves; what is fatal."""
    assert _registers(theirs) == _registers(ours)


def _registers(found: Host) -> list[int]:
    nvme = found.nvme
    seen = [nvme.read(name) for name in ("vendor_id", "device_id", "vs", "cc", "csts", "aqa")]
    for name, value in (("intms", 0xF0), ("intmc", 0x30)):
        nvme.write(name, value)
        seen += [nvme.read("intms"), nvme.read("intmc")]
    nvme.write("cc", 0)
    names = ("csts", "aqa", "asq", "acq")
    seen += [nvme.read(name) for name in names]
    for cc, registers in ((0x0045_0001, {}), (0x0056_0001, {}), (ENABLE, {"aqa": 7})):
        seen.append(found.enable(cc, **registers))
        nvme.write("cc", 0)
    seen.append(found.enable())
    return seen


ADMIN_COMMANDS: Final = (
    *(
        (6, namespace, {"dword10": number})
        for number in (0, 2, 3, 0x77)
        for namespace in (0, 1, NOWHERE, 0xFFFF_FFFF)
    ),
    *((5, 0, {"dword10": size << 16 | 9, "dword11": 3}) for size in (0, 7)),
    *((5, 0, {"dword10": 7 << 16 | number, "dword11": 3, "prp1": 0x9000}) for number in (0, 1, 9)),
    (5, 0, {"dword10": 2, "dword11": 3, "prp1": 0x9000}),
    (5, 0, {"dword10": 7 << 16 | 2, "dword11": 0x100 << 16 | 3, "prp1": 0x9000}),
    (1, 0, {"dword10": 7 << 16 | 2, "dword11": 5 << 16 | 1, "prp1": 0x9000}),
    (1, 0, {"dword10": 7 << 16 | 1, "dword11": 1 << 16 | 1, "prp1": 0x9000}),
    (1, 0, {"dword10": 2, "dword11": 1 << 16 | 1, "prp1": 0x9000}),
    (1, 0, {"dword10": 7 << 16 | 2, "dword11": 1 << 16, "prp1": 0x9000}),
    (4, 0, {"dword10": 1}),
    *((0, 0, {"dword10": number}) for number in (0, 2)),
    *((10, 1, {"dword10": number}) for number in (5, 7, 0x7F)),
    *(
        (9, 0, {"dword10": number, "dword11": value})
        for number, value in ((7, 0x7_0007), (7, 0xFFFF), (0x7F, 0))
    ),
    (9, 0, {"dword10": 6, "dword11": 1}),
    (8, 0, {"dword10": 1}),
    (0x7F, 0, {}),
)


def test_admin_commands(ours: Host, theirs: Host) -> None:
    """Status and dword 0 of commands that succeed and of those that do not."""
    differ = []
    for opcode, namespace, dwords in ADMIN_COMMANDS:
        seen = [found.do(ADMIN, opcode, namespace=namespace, **dwords) for found in (theirs, ours)]
        if seen[0] != seen[1]:
            differ.append((opcode, hex(namespace), dwords, *((hex(x.status), hex(x.result)) for x in seen)))
    assert [] == differ


def test_structures(ours: Host, theirs: Host) -> None:
    """Of Identify what the image and the queues decide."""
    places = {0: ((0, 24), (26, 1), (128, 4)), 1: ((0, 4), (111, 1), (512, 2), (525, 1)), 2: ((0, 4096),)}
    for number, parts in places.items():
        for found in (theirs, ours):
            assert 0 == found.do(ADMIN, 6, namespace=number != 2, dword10=number).status
        for at, length in parts:
            assert theirs.get(DATA + at, length) == ours.get(DATA + at, length), (number, at)


def test_transfers(tmp_path: Path, ours: Host, theirs: Host) -> None:
    """Reads, writes and zeroes at random places by random PRPs, among them bad ones; then the images."""
    random = Random(1)
    for number in range(150):
        opcode, offset = random.choice((1, 2, 2, 8)), 512 * random.choice((0, 0, 1, 7))
        block, count = random.randrange(SECTORS), random.choice((1, 8, 9, 40, 100))
        pages = [0x5_0000 + PAGE * n for n in random.sample(range(64), 16)]
        pages[random.randrange(16)] += random.choice((0, 0, 0, 8))
        prp2 = LIST if 512 * count > 2 * PAGE - offset else pages[0]
        content = random.randbytes(64)
        seen = []
        for found in (theirs, ours):
            found.put(LIST, struct.pack("<16Q", *pages))
            found.put(pages[1] & ~0xFFF, content)
            seen.append(found.do(IO, opcode, prp1=DATA + offset, prp2=prp2, dword10=block, dword12=count - 1))
        assert seen[0] == seen[1], (number, opcode, block, count, prp2)
    assert [0, 0] == [found.do(IO, 0).status for found in (theirs, ours)]
    assert ours.image == (tmp_path / "disk.img").read_bytes()


def test_io_commands_that_are_refused(ours: Host, theirs: Host) -> None:
    """Namespaces, opcodes, flags, ranges behind the end."""
    asked = (
        *((opcode, 1, {"dword10": SECTORS}) for opcode in (1, 2, 8)),
        *((opcode, NOWHERE, {}) for opcode in (0, 1, 2)),
        (0, 0xFFFF_FFFF, {}),
        (0x7F, 1, {}),
        (2, 1, {"dword12": 2000}),
    )
    for opcode, namespace, dwords in asked:
        seen = [found.do(IO, opcode, namespace=namespace, **dwords) for found in (theirs, ours)]
        assert seen[0] == seen[1], (opcode, namespace, dwords)
