"""What of this process's memory a core dump shows: nothing.

Guest memory, devices' state and journals, and a TPM's secrets on their way are in it.  A core
still has the threads' registers, and `faulthandler` has told the stacks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

FILTER: Final = Path("/proc/self/coredump_filter")
"""core(5), "Controlling which mappings are written to the core dump"."""


def leave_out_of_cores(path: Path = FILTER) -> None:
    """Leave all mappings out; processes that we start inherit that."""
    try:
        path.write_text("0")
    except OSError as error:
        structlog.get_logger().warning("core_dumps_not_restricted", reason=str(error))
