"""libvfio-user's own sample client, built from its source, on our server.

MMIOD_LIBVFIO_USER names the folder of a build (`meson setup build && ninja -C build`); without it
this is skipped, as in CI, whose network has package registries only, and none of them has it.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.attach.functions import Functions, serving
from tests.attach.sample import SampleFunction

BUILT = os.environ.get("MMIOD_LIBVFIO_USER")
PATIENCE_S = 60
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(BUILT is None, reason="MMIOD_LIBVFIO_USER names no build of libvfio-user")


async def test_the_sample_client_migrates_the_function(tmp_path: Path) -> None:
    """Its exit status is 0, to which each step has to be answered as the C library does.

    Version, errors where it wants them, regions, interrupts, reset, maps; memory written by messages
    and directly, and the log of that; an early copy while another thread writes to BAR 1, the last
    copy, and a second server of ours, where BAR 1 is the same and the alarm that was set rings.
    """
    assert BUILT is not None
    (tmp_path / "client").symlink_to(Path(BUILT) / "samples" / "client")
    server = tmp_path / "server"
    server.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.functional.destination "$2"\n')
    server.chmod(0o755)
    rig = Functions(
        tmp_path,
        {"sample": SampleFunction},
        dma="messages",
        wall_s=partial(time.clock_gettime, time.CLOCK_REALTIME),
    )
    async with serving(rig):
        with trio.fail_after(PATIENCE_S):
            done = await trio.run_process(
                [str(tmp_path / "client"), str(tmp_path / "sample")],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd=ROOT,
            )
        await rig.wait_for("function_detached")
        sample = rig.machine.hosts["sample"].device
    said = done.stdout.decode()
    assert (0, [REFUSED]) == (done.returncode, done.stderr.decode().splitlines())
    assert 9 == said.count("region_info[")
    assert "IRQ INTx: count=1 flags=0x7" in said
    assert ["0x1", "0x1", *["0"] * 30] == [
        line.split()[-1] for line in said.splitlines() if "bitmap: " in line
    ]
    assert 2 == said.count("INTx triggered!")
    states = [one["state"] for one in rig.of("function_migrates")]
    assert ["pre_copy", "stop_copy", "stop"] == states
    assert isinstance(sample, SampleFunction)
    assert not sample.state.faults
    refused = [(one["message"], one["field"], one["value"]) for one in rig.of("message_refused")]
    assert [("REGION_READ", "region_read.region", "0xdeadbeef")] == refused


REFUSED = "client: failed to read from region -559038737 0-0x3: Invalid argument"
