"""A TPM goes with its VM: what swtpm keeps is in the saved state, and goes on in another swtpm."""

from __future__ import annotations

import json
import os
import signal
from base64 import b85decode, b85encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmiod.protocol.exit import Ack, Error
from tests.functional.test_tpm import DIGEST, EXTENDED, TPM_RC_INITIALIZE, measure
from tests.functional.tpms import (
    GET_RANDOM,
    STARTUP,
    STS,
    TpmGuest,
    children,
    code,
    extend,
    read_pcr,
    tpm_vm,
)

pytestmark = pytest.mark.needs("swtpm")

PCR_RESET = bytes.fromhex("8002 0000001b 0000013d 00000010 00000009 40000009 0000 00 0000")
"""TPM2_PCR_Reset of PCR 16."""


async def pause(vm: TpmGuest) -> None:
    """PAUSE, and wait for its end."""
    await vm.guest.send(vm.guest.client.pause()[1])
    await vm.guest.expect(Ack)


async def save(vm: TpmGuest) -> bytes:
    """The state of a VM that pauses now."""
    await pause(vm)
    await vm.guest.send(vm.guest.client.save()[1])
    descriptor, length = await vm.guest.expect_descriptor()
    document = os.pread(descriptor, length + 1, 0)
    os.close(descriptor)
    assert length == len(document)
    return document


async def restore(vm: TpmGuest, document: bytes) -> Ack | Error:
    """RESTORE, and what answers it."""
    with os.fdopen(os.memfd_create("state"), "wb") as file:
        file.write(document)
        file.flush()
        await vm.guest.send(vm.guest.client.restore(len(document))[1], file.fileno())
        event = await vm.guest.receive()
    assert isinstance(event, Ack | Error)
    return event


async def resume(vm: TpmGuest) -> None:
    """Go on after a PAUSE."""
    await vm.guest.send(vm.guest.client.resume()[1])
    await vm.guest.expect(Ack)


def directories(path: Path) -> tuple[Path, Path]:
    """Two new ones."""
    for name in ("here", "there"):
        (path / name).mkdir()
    return path / "here", path / "there"


async def test_a_tpm_goes_on_in_another_daemon(tmp_path: Path) -> None:
    """Its PCRs and that it was started; the first one goes on too, and a reset is still a reset."""
    here, there = directories(tmp_path)
    async with tpm_vm(here, "swtpm:state") as vm:
        await measure(vm)
        document = await save(vm)
        async with tpm_vm(there, "swtpm:state") as other:
            assert isinstance(await restore(other, document), Ack)
            assert 0 == await other.get(STS) & 1
            assert EXTENDED == (await other.execute(read_pcr(10)))[-32:]
            assert TPM_RC_INITIALIZE == code(await other.execute(STARTUP))
            assert 0 == code(await other.execute(extend(10, DIGEST)))
            await other.reset()
            assert EXTENDED == await measure(other)
        await resume(vm)
        assert EXTENDED == (await vm.execute(read_pcr(10)))[-32:]
        await vm.reset()
        assert EXTENDED == await measure(vm)
        assert [] == vm.named("tpm_failed")


async def test_a_command_under_way_is_done_before_the_save(tmp_path: Path) -> None:
    """START, and a PAUSE at once: its effect and its response are in the state, once."""
    here, there = directories(tmp_path)
    async with tpm_vm(here, "swtpm") as vm:
        assert 0 == code(await vm.execute(STARTUP))
        await vm.start(extend(10, DIGEST))
        document = await save(vm)
    assert {"tpm": 3} == json.loads(document)["devices"]["tpm"]["requests"]
    async with tpm_vm(there, "swtpm") as other:
        assert isinstance(await restore(other, document), Ack)
        assert 0 == code(await other.finish())
        assert EXTENDED == (await other.execute(read_pcr(10)))[-32:]


async def test_a_state_is_restored_over_a_tpm_that_runs(tmp_path: Path) -> None:
    """Back to what was saved, also when the swtpm has died meanwhile."""
    async with tpm_vm(tmp_path, "swtpm") as vm:
        await measure(vm)
        document = await save(vm)
        for kills in (False, True):
            await resume(vm)
            assert 0 == code(await vm.execute(extend(10, DIGEST)))
            if kills:
                os.kill(children("swtpm")[0], signal.SIGKILL)
                await vm.waits_for("backend_failed")
            await pause(vm)
            assert isinstance(await restore(vm, document), Ack)
            await resume(vm)
            assert EXTENDED == (await vm.execute(read_pcr(10)))[-32:]
            await pause(vm)


async def test_a_tpm_that_was_lost_stays_lost(tmp_path: Path) -> None:
    """Its VM can be saved; restored, the guest finds failure mode until it resets."""
    here, there = directories(tmp_path)
    async with tpm_vm(here, "swtpm") as vm:
        await measure(vm)
        os.kill(children("swtpm")[0], signal.SIGKILL)
        await vm.waits_for("backend_failed")
        document = await save(vm)
    assert json.loads(document)["devices"]["tpm"]["backends"] == {"tpm": None}
    async with tpm_vm(there, "swtpm") as other:
        assert isinstance(await restore(other, document), Ack)
        assert 1 == await other.get(STS) & 1
        assert 0x101 == code(await other.execute(read_pcr(10)))
        assert "was not saved" in str(other.named("tpm_failed")[0]["reason"])
        await other.reset()
        assert EXTENDED == await measure(other)


def _blob(name: str, change: Callable[[bytes], bytes]) -> Callable[[Any], None]:
    def edit(backend: Any) -> None:  # noqa: ANN401  # of JSON
        parts = backend["parts"]
        parts[name] = b85encode(change(b85decode(parts[name]))).decode()

    return edit


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda b: b.update(kind="tpm-in-a-box"), "kind: 'tpm-in-a-box', here it is 'swtpm'"),
        (lambda b: b.update(schema=2), "schema: 2, here it is 1"),
        (lambda b: b["parts"].pop("volatile"), "parts.volatile: is missing"),
        (_blob("permanent", lambda d: d + bytes(1 << 20)), "parts.permanent: 1049"),
        (_blob("permanent", lambda _: b"\0\0\0\0nonsense"), "parts.permanent: swtpm's control command 13"),
        (_blob("volatile", lambda d: d[:5] + b"\xff" + d[6:]), "parts.volatile: swtpm's control command 13"),
        (_blob("permanent", lambda d: d[:50] + bytes(8) + d[58:]), "parts.permanent: swtpm"),
        (_blob("volatile", lambda d: d[:-1000]), "parts.volatile: swtpm's control command 13"),
    ],
)
async def test_a_state_that_does_not_fit_is_refused(
    tmp_path: Path, edit: Callable[[Any], None], reason: str
) -> None:
    """The error names the part; the VM that should have taken it goes on with the TPM it had."""
    here, there = directories(tmp_path)
    async with tpm_vm(here, "swtpm") as vm:
        assert 0 == code(await vm.execute(STARTUP))
        document = json.loads(await save(vm))
    edit(document["devices"]["tpm"]["backends"]["tpm"])
    async with tpm_vm(there, "swtpm") as other:
        await measure(other)
        await pause(other)
        refused = await restore(other, json.dumps(document).encode())
        assert isinstance(refused, Error)
        assert refused.reason.startswith("devices.tpm.backends.tpm")
        assert reason in refused.reason
        await resume(other)
        assert EXTENDED == (await other.execute(read_pcr(10)))[-32:]
        assert 0 == code(await other.execute(GET_RANDOM))


async def test_without_swtpm_a_state_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nobody to take it: the hypervisor learns why, and nothing hangs."""
    here, there = directories(tmp_path)
    async with tpm_vm(here, "swtpm") as vm:
        await measure(vm)
        document = await save(vm)
    monkeypatch.setenv("PATH", str(tmp_path))
    async with tpm_vm(there, "swtpm") as other:
        refused = await restore(other, document)
        assert isinstance(refused, Error)
        assert "No such file or directory: 'swtpm'" in refused.reason
        assert 0x101 == code(await other.execute(STARTUP))
