"""An initial RAM disk of busybox and a script, for a stock Linux kernel.

`stock` is a directory that `.ci/stock` made: `busybox`, `modules/*.ko`.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_INIT: Final = """\
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
"""
_DIRECTORY, _PROGRAM, _FILE = 0o40755, 0o100755, 0o100644
_FOLDERS: Final = ("bin", "lib", "mnt", "proc", "sys", "dev")


def compressed(stock: Path, script: str, modules: Sequence[str] = ()) -> bytes:
    """The image; the guest loads `modules` in this order, runs the script, and powers off."""
    loads = "".join(f"insmod /lib/{name}.ko\n" for name in modules)
    init = f"{_INIT}{loads}{script}poweroff -f\n"
    files = [
        *((name, _DIRECTORY, b"") for name in _FOLDERS),
        ("bin/busybox", _PROGRAM, (stock / "busybox").read_bytes()),
        *((f"lib/{name}.ko", _FILE, (stock / "modules" / f"{name}.ko").read_bytes()) for name in modules),
        ("init", _PROGRAM, init.encode()),
        ("TRAILER!!!", 0, b""),
    ]
    return gzip.compress(b"".join(_entry(number, *found) for number, found in enumerate(files, 1)), 1)


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    """A file as cpio of form newc has it (Linux Documentation/driver-api/early-userspace)."""
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + encoded
    head += bytes(-len(head) % 4)
    return head + data + bytes(-len(data) % 4)
