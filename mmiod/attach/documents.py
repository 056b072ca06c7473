"""SAVE and RESTORE: a machine's state to and from a descriptor.

Both wait for backends: what they keep is fetched first, or taken by them first.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

from mmiod.errors import ProtocolError, RestoreError
from mmiod.machine.machine import Machine
from mmiod.machine.state import Restoration, apply, check_taken, hand_over, read, save
from mmiod.protocol.exit import NUMBERS, Restore

ERROR: Final = NUMBERS["error"]
MAX_STATE: Final = 64 << 20
"""Bytes of a saved state."""


def begin_save(machine: Machine) -> None:
    """Ask services' backends what they keep; their ports are busy until they have told."""
    for port in machine.services.values():
        if port.keeping is not None:
            port.fetch()


def saved(machine: Machine) -> tuple[int, int]:
    """A memfd with the machine's state, which nobody can change any more, and its length."""
    document = save(machine)
    descriptor = os.memfd_create("mmiod-state", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(document)
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor, len(document)


def check_length(request: Restore) -> None:
    """Bound what is read.

    Raises:
        ProtocolError: naming the field.
    """
    if request.length > MAX_STATE:
        reason = f"at most {MAX_STATE}"
        raise ProtocolError(ERROR["LIMIT"], "restore.length", request.length, reason, subject=request.serial)


def begin_restore(machine: Machine, request: Restore, descriptor: int) -> Restoration:
    """Read a state from a file, and hand backends what they kept; their ports are busy until they took it.

    Raises:
        ProtocolError: it cannot be read, or (not fatal) does not fit; the machine is as it was.
    """
    try:
        restoration = read(machine, os.pread(descriptor, request.length, 0))
    except RestoreError as error:
        raise _mismatch(request, error) from error
    except OSError as error:
        raise ProtocolError(
            ERROR["DESCRIPTOR"], "restore descriptors", 1, str(error), subject=request.serial
        ) from error
    hand_over(machine, restoration)
    return restoration


def restored(machine: Machine, request: Restore, restoration: Restoration) -> None:
    """Bring the machine to the state that was read.

    Raises:
        ProtocolError: (not fatal) a backend did not take its part; the machine is as it was.
    """
    try:
        check_taken(machine)
    except RestoreError as error:
        raise _mismatch(request, error) from error
    apply(machine, restoration)


def _mismatch(request: Restore, error: RestoreError) -> ProtocolError:
    return ProtocolError(ERROR["MISMATCH"], "restore", 0, str(error), subject=request.serial, fatal=False)
