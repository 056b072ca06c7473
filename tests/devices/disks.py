"""An ATA disk with an image that answers as soon as it is let."""

from __future__ import annotations

import struct

from devices.legacy.ata import AtaDisk, Status
from mmiod.device.block import AT, RANGE, SECTOR, Medium
from mmiod.testing import Harness

SECTORS = 300
NIEN, SRST = 2, 4
MASTER, SLAVE, LBA = 0xA0, 0xB0, 0x40


class Disk:
    """The device and its image; unless `held`, requests are answered at once."""

    def __init__(self, sectors: int = SECTORS, *, read_only: bool = False) -> None:
        """Switch it on."""
        self.medium = Medium(sectors, read_only)
        self.image = bytearray(b"".join(number.to_bytes(SECTOR, "little") for number in range(sectors)))
        self.ata = Harness(AtaDisk)
        self.held = False
        self.kinds: list[str] = []
        self.serve()

    def serve(self) -> None:
        """Answer what was asked."""
        asked = self.ata.context.asked
        while asked and not self.held:
            service, number, kind, data = asked.pop(0)
            self.kinds.append(kind)
            self.ata.reply(service, number, self._do(kind, data))

    def _do(self, kind: str, data: bytes) -> bytes:
        if kind == "identify":
            return self.medium.reply()
        if kind == "read":
            sector, count = RANGE.unpack(data)
            return bytes(self.image[sector * SECTOR : (sector + count) * SECTOR])
        if kind == "write":
            (sector,) = AT.unpack_from(data)
            self.image[sector * SECTOR : sector * SECTOR + len(data) - 8] = data[8:]
        return b""

    def fail(self, reason: str = "broken") -> None:
        """Refuse what was asked last."""
        service, number, _, _ = self.ata.context.asked.pop()
        self.ata.fail(service, number, reason)

    # --- what a driver does

    @property
    def status(self) -> int:
        """The alternate status: it acknowledges nothing."""
        return self.ata.read("alternate_status")

    @property
    def irq(self) -> bool:
        """INTRQ."""
        return self.ata.levels["intrq"]

    def command(self, code: int, sector: int = 0, count: int = 1, device: int = MASTER | LBA) -> None:
        """Write the command block."""
        values = (count & 0xFF, sector & 0xFF, sector >> 8 & 0xFF, sector >> 16 & 0xFF)
        for offset, value in enumerate((*values, device | sector >> 24), 2):
            self.ata.write_at(offset, value, region="command_block")
        self.ata.write("command", code)
        self.serve()

    def take(self, words: int = 256) -> bytes:
        """Read the data register."""
        return struct.pack(f"<{words}H", *(self.ata.read("data") for _ in range(words)))

    def give(self, data: bytes) -> None:
        """Write the data register."""
        for (word,) in struct.iter_unpack("<H", data):
            self.ata.write("data", word)
        self.serve()

    def ended(self) -> tuple[int, int]:
        """Status (which acknowledges the interrupt) and error."""
        assert not self.status & (Status.BSY | Status.DRQ)
        return self.ata.read("status"), self.ata.read("error")
