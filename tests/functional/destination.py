"""Our sample function where libvfio-user's sample client wants a server to migrate to.

    destination SOCKET

The client becomes this program, and what it forked goes on as the client: its exit status is ours.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import trio

from tests.attach.functions import Functions, serving
from tests.attach.sample import SampleFunction


async def _serve(path: Path) -> int:
    """Serve until the client ends; faults that the function saw are a status, too."""
    with tempfile.TemporaryDirectory() as directory:
        rig = Functions(
            Path(directory),
            {"sample": SampleFunction},
            dma="messages",
            wall_s=partial(time.clock_gettime, time.CLOCK_REALTIME),
        )
        async with serving(rig):
            (Path(directory) / "sample").rename(path)  # it listens: the client connects at once
            _, status = await trio.to_thread.run_sync(partial(os.waitpid, -1, 0))
            sample = rig.machine.hosts["sample"].device
            assert isinstance(sample, SampleFunction)
            for refused in rig.of("message_refused"):
                sys.stderr.write(f"{refused}\n")
    return os.waitstatus_to_exitcode(status) or sample.state.faults


if __name__ == "__main__":
    sys.exit(trio.run(_serve, Path(sys.argv[1])))
