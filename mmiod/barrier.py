"""A full barrier, which Python lacks: for both ends of a memory that two processes share (x86-64)."""

from __future__ import annotations

import threading
from typing import Final

_barrier: Final = threading.Lock()
"""Taken and released it is a full barrier: no load behind it is done before all stores before it
are seen.  It is nobody else's lock, so that it is free: CPython's is then a semaphore, whose
`sem_trywait` and `sem_post` are LOCK-prefixed (SDM vol. 3, 8.2.2; a `trywait` that fails is not).
The litmus test in tests/attach loses wake-ups without it, and none with it."""
_acquire: Final = _barrier.acquire
_release: Final = _barrier.release


def barrier() -> None:
    """Let all stores be seen before the next load is done."""
    _acquire()
    _release()
