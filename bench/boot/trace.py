"""A recorded boot: what QEMU's `-trace memory_region_ops_*` says, in 20 bytes an access, compressed."""

from __future__ import annotations

import gzip
import json
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

from bench.programs import CACHE

LINE: Final = re.compile(
    rb"memory_region_ops_(read|write) cpu (-?\d+) mr \S+ addr (\S+) value (\S+) size (\d+) name '(.*)'"
)
ENTRY: Final = struct.Struct("<BBHQQ")
"""Whether it is a write, size in bytes, region, address, value."""
SAMPLE: Final = Path(__file__).parent / "sample.boot"
"""The first accesses of one, for where nothing was recorded."""


@frozen
class Access:
    """One access, by a vCPU."""

    region: str
    address: int
    size: int
    write: bool
    value: int


@frozen
class Boot:
    """All accesses of a boot, in order."""

    name: str
    source: str
    """Programs and options that made it."""
    accesses: Sequence[Access]


def read_log(log: Path) -> Iterator[Access]:
    """QEMU's own text; what is no vCPU's is left out."""
    with log.open("rb") as lines:
        for found in filter(None, map(LINE.match, lines)):
            kind, cpu, address, value, size, region = found.groups()
            if int(cpu) >= 0:
                yield Access(region.decode(), int(address, 16), int(size), kind == b"write", int(value, 16))


def save(path: Path, name: str, source: str, accesses: Iterable[Access]) -> int:
    """Write a file; how many accesses it has."""
    regions: dict[str, int] = {}
    body = bytearray()
    for each in accesses:
        region = regions.setdefault(each.region, len(regions))
        body += ENTRY.pack(each.write, each.size, region, each.address, each.value)
    head = json.dumps({"name": name, "source": source, "regions": list(regions)}).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(head + body, 9, mtime=0))
    return len(body) // ENTRY.size


def load(path: Path) -> Boot:
    """Read a file."""
    head, _, body = gzip.decompress(path.read_bytes()).partition(b"\n")
    told = json.loads(head)
    accesses = [
        Access(told["regions"][region], address, size, bool(write), value)
        for write, size, region, address, value in ENTRY.iter_unpack(body)
    ]
    return Boot(told["name"], told["source"], accesses)


def recorded() -> list[Path]:
    """Files of this computer; the committed sample if there are none."""
    return sorted(CACHE.glob("*.boot")) or [SAMPLE]
