"""The host's side of an NVMe controller: a driver that knows the specification, and an image."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from attrs import define, field, frozen

from devices.pci.nvme import Nvme, NvmeConfig
from mmiod.device.block import AT, RANGE, SECTOR, Medium
from mmiod.testing import Harness

SECTORS = 4000
PAGE = 4096
ENABLE, READY, FATAL = 0x0046_0001, 1, 2
ADMIN, IO = 0, 1
ENTRIES = 8
"""Of each queue."""
LIST, DATA = 0x2_0000, 0x4_0000
"""Where PRP lists and data are; queues are below, 16 KiB for each pair."""


@frozen
class Completion:
    """A completion queue entry."""

    result: int
    head: int
    queue: int
    identifier: int
    status: int
    phase: int


@define
class Ring:
    """The host's view of a pair of queues."""

    number: int
    entries: int = ENTRIES
    tail: int = 0
    head: int = 0
    phase: int = 1

    @property
    def submissions(self) -> int:
        """GPA."""
        return 0x4000 * (self.number + 1)

    @property
    def completions(self) -> int:
        """GPA."""
        return self.submissions + 0x2000


@define(eq=False)
class Host:
    """The controller, its image and the driver; unless `held`, the image answers at once."""

    nvme: Harness[Nvme]
    medium: Medium = field(factory=lambda: Medium(SECTORS))
    held: bool = False
    kinds: list[str] = field(factory=list)
    image: bytearray = field(
        factory=lambda: bytearray(b"".join(n.to_bytes(512, "little") for n in range(SECTORS)))
    )
    rings: dict[int, Ring] = field(factory=dict)
    identifier: int = 0x100

    # --- the image

    def serve(self, count: int = 1 << 30) -> None:
        """Answer what was asked, as many as that."""
        asked = self.nvme.context.asked
        while asked and count:
            service, number, kind, data = asked.pop(0)
            self.kinds.append(kind)
            self.nvme.reply(service, number, self._do(kind, data))
            count -= 1

    def _do(self, kind: str, data: bytes) -> bytes:
        if kind == "identify":
            return self.medium.reply()
        if kind == "read":
            sector, count = RANGE.unpack(data)
            return bytes(self.image[sector * SECTOR : (sector + count) * SECTOR])
        if kind == "write":
            (sector,) = AT.unpack_from(data)
            self.image[sector * SECTOR : sector * SECTOR + len(data) - AT.size] = data[AT.size :]
        if kind == "write_zeroes":
            sector, count = RANGE.unpack(data)
            self.image[sector * SECTOR : (sector + count) * SECTOR] = bytes(count * SECTOR)
        return b""

    def fail(self) -> None:
        """Refuse what was asked first."""
        service, number, _, _ = self.nvme.context.asked.pop(0)
        self.nvme.fail(service, number, "broken")

    # --- registers

    def place(self) -> None:
        """BARs and bus mastering."""
        self.nvme.write("command", 6)

    def enable(self, cc: int = ENABLE, **registers: int) -> int:
        """Set the admin queues up; the status."""
        ring = self.rings[ADMIN] = Ring(ADMIN)
        self.clear(ring)
        size = ENTRIES - 1
        values = {"aqa": size << 16 | size, "asq": ring.submissions, "acq": ring.completions, **registers}
        for name, value in values.items():
            self.nvme.write(name, value)
        self.nvme.write("cc", cc)
        return self.nvme.read("csts")

    def clear(self, ring: Ring) -> None:
        """No phase tag is left."""
        self.put(ring.completions, bytes(16 * ring.entries))

    def message(self, vector: int) -> None:
        """Switch MSI-X on, with address FEE00000h and the vector's number as data."""
        self.nvme.write(f"msix_address{vector}", 0xFEE0_0000)
        self.nvme.write(f"msix_data{vector}", vector)
        self.nvme.write(f"msix_vector_control{vector}", 0)
        self.nvme.write("msix_control", 0x8000)

    # --- memory

    def put(self, gpa: int, data: bytes) -> None:
        """Write RAM."""
        self.nvme.context.memory.write(gpa, data)

    def get(self, gpa: int, length: int) -> bytes:
        """Read RAM."""
        return self.nvme.context.memory.read(gpa, length)

    # --- commands

    def submit(self, queue: int, opcode: int, *, namespace: int = 1, flags: int = 0, **rest: int) -> int:
        """Put a command into a queue; its identifier."""
        ring = self.rings[queue]
        self.identifier += 1
        dwords = [rest.get(f"dword{number}", 0) for number in range(10, 16)]
        prps = rest.get("prp1", DATA), rest.get("prp2", 0)
        entry = struct.pack("<BBHI16xQQ6I", opcode, flags, self.identifier, namespace, *prps, *dwords)
        self.put(ring.submissions + 64 * ring.tail, entry)
        ring.tail = (ring.tail + 1) % ring.entries
        return self.identifier

    def ring(self, queue: int) -> None:
        """Tell of what was submitted."""
        self.nvme.write(f"doorbells{2 * queue}", self.rings[queue].tail)
        if not self.held:
            self.serve()

    def completed(self, queue: int) -> list[Completion]:
        """Take what was posted, and say so."""
        ring = self.rings[queue]
        found: list[Completion] = []
        while len(found) < ring.entries:
            entry = self.get(ring.completions + 16 * ring.head, 16)
            result, head, number, identifier, status = struct.unpack("<I4xHHHH", entry)
            if status & 1 != ring.phase:
                break
            found.append(Completion(result, head, number, identifier, status >> 1, status & 1))
            ring.head = (ring.head + 1) % ring.entries
            ring.phase ^= not ring.head
        if found:
            self.nvme.write(f"doorbells{2 * queue + 1}", ring.head)
        return found

    def do(self, queue: int, opcode: int, *, namespace: int = 1, flags: int = 0, **rest: int) -> Completion:
        """One command from submission to completion."""
        identifier = self.submit(queue, opcode, namespace=namespace, flags=flags, **rest)
        self.ring(queue)
        (found,) = self.completed(queue)
        assert (identifier, queue) == (found.identifier, found.queue)
        return found

    def create(self, number: int = IO, entries: int = ENTRIES, vector: int = 0) -> None:
        """A pair of I/O queues."""
        ring = self.rings[number] = Ring(number, entries)
        self.clear(ring)
        size = (entries - 1) << 16 | number
        assert not self.do(ADMIN, 5, dword10=size, dword11=vector << 16 | 3, prp1=ring.completions).status
        assert not self.do(ADMIN, 1, dword10=size, dword11=number << 16 | 1, prp1=ring.submissions).status


def host(
    *,
    sectors: int = SECTORS,
    read_only: bool = False,
    config: NvmeConfig | None = None,
    queues: int = 1,
    messages: bool = False,
) -> Host:
    """An enabled controller with so many pairs of I/O queues, and a message for each pair."""
    made = Host(Harness(Nvme, config), Medium(sectors, read_only))
    made.place()
    made.serve()
    assert READY == made.enable()
    for vector in range(queues + 1) if messages else ():
        made.message(vector)
    for number in range(1, queues + 1):
        made.create(number, vector=number if messages else 0)
    return made


def blocks(first: int, count: int) -> bytes:
    """What the image has there at first."""
    return b"".join(number.to_bytes(SECTOR, "little") for number in range(first, first + count))


def fields(data: bytes, places: Mapping[str, tuple[int, str]]) -> dict[str, object]:
    """Named fields of a structure."""
    return {name: struct.unpack_from(form, data, offset)[0] for name, (offset, form) in places.items()}
