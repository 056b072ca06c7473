"""The bundled devices, and what answers their requests in tests that run all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mmiod.device.block import RANGE, SECTOR, Medium
from mmiod.testing.subject import Answer
from mmiod.testing.suite import ACCESSES, Terms, load

ROOT: Final = Path(__file__).parents[2] / "devices"
PLUGINS: Final = sorted(ROOT.glob("**/*.py"))


def disk(kind: str, data: bytes) -> bytes:
    """What a disk of 100 sectors replies."""
    if kind == "identify":
        return Medium(100).reply()
    return bytes(SECTOR * RANGE.unpack(data)[1]) if kind == "read" else b""


def tpm(kind: str, _data: bytes) -> bytes:
    """A response that says success."""
    return bytes.fromhex("80010000000a00000000") if kind == "execute" else b""


SERVICES: dict[str, dict[str, Answer]] = {
    "ata": {"disk": disk},
    "blk": {"image": disk},
    "crb": {"tpm": tpm},
    "nvme": {"disk": disk},
    "tis": {"tpm": tpm},
}


def terms(path: Path, accesses: int = ACCESSES) -> Terms:
    """A bundled device with what it needs around it."""
    return Terms(load(path), services=SERVICES.get(path.stem, {}), accesses=accesses)
