"""What a worker may do to its host: compute, and talk to the daemon.

Files: none but those that Python itself needs, and these are read only (Landlock, by ctypes:
there is no wrapper in the C library).  Network: none (Landlock, ABI 4).  Privileges: none new.
Memory, descriptors, file sizes, further processes: rlimits; `RLIMIT_NPROC` does not bind root.
CPU time has no limit, as a device serves for months: each hook has its deadline instead.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

MEMORY: Final = 1 << 30
"""Bytes of address space."""
DESCRIPTORS: Final = 16
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
SIGKILL: Final = 9

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls, the same on all architectures (landlock(7))."""
VERSION: Final = 1
PATH_BENEATH: Final = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILE_RIGHTS: Final = (1 << 13, 1 << 14, 1 << 15, 1 << 15, 1 << 16)
"""Per ABI, from 1: one above the highest right to files; 5 and later know them all."""
NETWORK_ABI: Final = 4
NETWORK_RIGHTS: Final = 3
"""To bind and to connect TCP sockets."""
SCOPE_ABI: Final = 6
SCOPES: Final = 3
"""Abstract Unix sockets and signals stay within the process's own domain."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("directory", ctypes.c_int32))


_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


def die_with_parent() -> None:
    """A worker in an endless loop outlives no daemon."""
    _prctl(PR_SET_PDEATHSIG, SIGKILL)


def confine() -> str:
    """Give up what a device does not need; for good.

    Returns:
        What the kernel lacks for it, "" if nothing.

    Raises:
        OSError: the kernel refuses.
    """
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    missing = "" if _landlock(_needed()) else "Landlock"
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_NOFILE: DESCRIPTORS,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    return missing


def _needed() -> set[Path]:
    """Where modules are that a hook may come to import."""
    paths = sysconfig.get_paths()
    found = {Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {Path(entry) / "mmiod" for entry in sys.path}
    return {path for path in found if path.is_dir()}


def _landlock(readable: Iterable[Path]) -> bool:
    """Whether the kernel has it: then the process can only read there, from now on."""
    abi = _LIBC.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION)
    if abi < 1:
        return False
    files = FILE_RIGHTS[min(abi, len(FILE_RIGHTS)) - 1] - 1
    rules = _Ruleset(files, NETWORK_RIGHTS if abi >= NETWORK_ABI else 0, SCOPES if abi >= SCOPE_ABI else 0)
    size = ctypes.sizeof(rules) if abi >= SCOPE_ABI else 16 if abi >= NETWORK_ABI else 8
    ruleset = _call(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    for path in readable:
        directory = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = _PathBeneath(READ_FILE | READ_DIR, directory)
        _call(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0)
        os.close(directory)
    _call(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return True


def _call(number: int, *arguments: object) -> int:
    answer: int = _LIBC.syscall(number, *arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return answer


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")
