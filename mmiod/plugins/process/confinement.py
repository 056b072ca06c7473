"""What a worker may do to its host: compute, and talk to the daemon.

Files: none but those that Python itself needs, and these are read only (Landlock, by ctypes:
there is no wrapper in the C library).  Network: none (Landlock, ABI 4).  Privileges: none new.
Further processes: none (seccomp, as `RLIMIT_NPROC` does not bind root).  Memory, descriptors,
file sizes: rlimits.
CPU time has no limit, as a device serves for months: each hook has its deadline instead.
"""

from __future__ import annotations

import ctypes
import errno
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


PR_SET_SECCOMP, MODE_FILTER = 22, 2
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Instructions of a filter (seccomp(2), linux/bpf_common.h)."""
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Offsets in what it looks at."""
X86_64: Final = 0xC000003E
X32: Final = 1 << 30
"""Numbers from here on are system calls of another ABI."""
CLONE, CLONE3, CLONE_THREAD = 56, 435, 1 << 16
STARTS: Final = (57, 58, 59, 322)
"""fork, vfork, execve, execveat."""
ALLOW: Final = 0x7FFF0000
REFUSE: Final = 0x50000
"""And an errno."""


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("then", ctypes.c_uint8),
        ("otherwise", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


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
    lacking = {"Landlock": _landlock(_needed()), "seccomp": _start_nothing()}
    limits = {
        resource.RLIMIT_AS: MEMORY,
        resource.RLIMIT_NOFILE: DESCRIPTORS,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    return ", ".join(name for name, there in lacking.items() if not there)


def _start_nothing() -> bool:
    """Whether the kernel has seccomp: then the process can start threads, and nothing else."""
    allowed, refused, unknown = 12, 13, 14
    program = [  # a jump counts from the next instruction
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 0, refused - 2, X86_64),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, refused - 4, 0, X32),
        *((EQUAL, refused - 5 - at, 0, number) for at, number in enumerate(STARTS)),
        (EQUAL, unknown - 9, 0, CLONE3),
        (EQUAL, 0, allowed - 10, CLONE),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (ANY_BIT, 0, refused - 12, CLONE_THREAD),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE | errno.EPERM),
        (RETURN, 0, 0, REFUSE | errno.ENOSYS),  # the C library then tries `clone`
    ]
    instructions = (_Instruction * len(program))(*(_Instruction(*each) for each in program))
    found = _Filter(len(program), instructions)
    return not _LIBC.prctl(PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(found), 0, 0)


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
