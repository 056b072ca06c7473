"""This process's memory: a core dump shows nothing of it, and what is freed is kept for a while.

Guest memory, devices' state and journals, and a TPM's secrets on their way are in it.  A core
still has the threads' registers, and `faulthandler` has told the stacks.

The C library gives large blocks back to the kernel at once.  A disk's requests take such blocks and
free them again all the time, and to get 128 KiB anew costs 150 us in a virtual machine: each page
is faulted in and cleared.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

import structlog

FILTER: Final = Path("/proc/self/coredump_filter")
"""core(5), "Controlling which mappings are written to the core dump"."""

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
LARGE: Final = 4 << 20
"""Bytes of a block that is mapped on its own, and unmapped when it is freed."""
SPARE: Final = 16 << 20
"""Bytes of freed memory that are kept."""


def leave_out_of_cores(path: Path = FILTER) -> None:
    """Leave all mappings out; processes that we start inherit that."""
    try:
        path.write_text("0")
    except OSError as error:
        structlog.get_logger().warning("core_dumps_not_restricted", reason=str(error))


def keep_freed() -> None:
    """Keep freed memory, where the C library is one that can be told (glibc)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGE)
        mallopt(TRIM_THRESHOLD, SPARE)
