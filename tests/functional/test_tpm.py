"""A guest's TPM is the real swtpm: over exit protocol, daemon, CRB registers and backend."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from mmiod import config
from mmiod.core.service_lane import MAX_ATTEMPTS
from mmiod.protocol.exit import Ack, Completed
from mmiod.trace.record import ADDRESS, DEVICE, DIRECTION, REGISTER, SIZE, VALUE, Record
from mmiod.values import READ, WRITE, DecodedExit, Space
from tests.functional import relay
from tests.functional.boots import ROOT, Boot, booting
from tests.functional.tpms import (
    GET_RANDOM,
    PATIENCE_S,
    SELF_TEST,
    START,
    STARTUP,
    STS,
    TpmGuest,
    children,
    code,
    extend,
    proxied,
    read_pcr,
    tpm_vm,
)

pytestmark = pytest.mark.needs("swtpm")

DIGEST = hashlib.sha256(b"measured").digest()
EXTENDED = hashlib.sha256(bytes(32) + DIGEST).digest()
TPM_RC_INITIALIZE = 0x100


async def measure(vm: TpmGuest) -> bytes:
    """Startup, self-test, randomness, PCR 10 extended; the PCR as the guest reads it."""
    for data in (STARTUP, SELF_TEST, GET_RANDOM, extend(10, DIGEST)):
        assert 0 == code(await vm.execute(data))
    response = await vm.execute(read_pcr(10))
    assert 0 == code(response)
    return response[-32:]


async def test_guest_measures_into_a_swtpm_of_our_own(tmp_path: Path) -> None:
    """The PCR is the hash that the TPM 2.0 Library says; swtpm and its state are gone in the end."""
    async with tpm_vm(tmp_path, "swtpm") as vm:
        assert EXTENDED == await measure(vm)
        first, second = await vm.execute(GET_RANDOM), await vm.execute(GET_RANDOM)
        assert first[10:] != second[10:]
        assert 1 == len(children("swtpm"))
    assert [] == children("swtpm")


async def test_state_directory_keeps_what_a_tpm_keeps(tmp_path: Path) -> None:
    """`swtpm:DIRECTORY`: a second daemon finds the same TPM: its PCRs reset, its seeds the same."""
    create = bytes.fromhex(  # TPM2_CreatePrimary of an ECC key from the template of the storage root
        "8002 00000043 00000131 40000001 00000009 40000009 0000 00 0000"
        "0004 0000 0000 001a 0023 000b 00030472 0000 0006 0080 0043 0010 0003 0010 0000 0000"
        "0000 00000000"
    )
    points = []
    for _ in range(2):
        async with tpm_vm(tmp_path, "swtpm:tpm-{vm}") as vm:
            assert EXTENDED == await measure(vm)
            response = await vm.execute(create)
            assert 0 == code(response)
            points.append(response[18:120])
    assert points[0] == points[1]
    assert (tmp_path / "tpm-vm" / "tpm2-00.permall").is_file()


async def test_reset_of_the_vm_resets_the_tpm(tmp_path: Path) -> None:
    """Without CMD_INIT a second TPM2_Startup would be refused; PCRs begin anew."""
    async with tpm_vm(tmp_path, "swtpm") as vm:
        await measure(vm)
        assert TPM_RC_INITIALIZE == code(await vm.execute(STARTUP))
        await vm.reset()
        assert EXTENDED == await measure(vm)


async def test_tpm_that_dies_in_a_command_is_fatal_and_told_once(tmp_path: Path) -> None:
    """Killed under a command: it ends with tpmSts, is reported as unknown, never repeated; a reset helps."""
    async with tpm_vm(tmp_path, "swtpm") as vm:
        await measure(vm)
        (pid,) = children("swtpm")
        os.kill(pid, signal.SIGSTOP)
        await vm.start(extend(10, DIGEST))
        assert 1 == await vm.get(START)
        os.kill(pid, signal.SIGKILL)
        assert 0x101 == code(await vm.finish())
        assert 1 == await vm.get(STS) & 1
        unknown = await vm.waits_for("effect_unknown")
        assert ("tpm", "execute") == (unknown["device"], unknown["kind"])
        assert 0x101 == code(await vm.execute(read_pcr(10)))
        assert 1 == len(vm.named("tpm_failed"))
        assert "SIGKILL" in str(vm.named("backend_failed")[0]["reason"])
        await vm.reset()
        assert EXTENDED == await measure(vm)


async def test_tpm_that_dies_between_commands_has_forgotten(tmp_path: Path) -> None:
    """A new swtpm would let the guest measure anew: it answers nothing before a reset."""
    async with tpm_vm(tmp_path, "swtpm") as vm:
        await measure(vm)
        os.kill(children("swtpm")[0], signal.SIGKILL)
        await vm.waits_for("backend_failed")
        assert 0x101 == code(await vm.execute(STARTUP))
        assert "needs a reset" in str(vm.named("tpm_failed")[0]["reason"])
        await vm.reset()
        assert EXTENDED == await measure(vm)


async def test_without_swtpm_commands_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such program: an event with the reason, failure mode, no hang."""
    monkeypatch.setenv("PATH", str(tmp_path))
    async with tpm_vm(tmp_path, "swtpm") as vm:
        assert 0x101 == code(await vm.execute(STARTUP))
        assert "No such file or directory: 'swtpm'" in str(vm.named("backend_failed")[0]["reason"])


@pytest.mark.parametrize("words", ["", "no room in /tmp"])
async def test_swtpm_that_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """Its status and last words are in the event, failure mode is told once; it is not tried for ever."""
    program = tmp_path / "swtpm"
    program.write_text(f"#!/bin/sh\necho once >> {tmp_path}/starts\necho '{words}' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    async with tpm_vm(tmp_path, "swtpm") as vm:
        assert 0x101 == code(await vm.execute(STARTUP))
        assert 1 == await vm.get(STS) & 1
        told = str(vm.named("backend_failed")[0]["reason"])
        assert f"it ended with status 3: {words}".removesuffix(": ") == told
        assert 1 == len(vm.named("tpm_failed"))
    assert (tmp_path / "starts").read_text().count("once") <= 2 * MAX_ATTEMPTS


async def test_pause_waits_for_a_command_under_way(tmp_path: Path) -> None:
    """A saved state has no command whose response went elsewhere."""
    async with proxied(tmp_path) as proxy, tpm_vm(tmp_path, "swtpm-socket:data,tpm-control") as vm:
        assert 0 == code(await vm.execute(STARTUP))
        proxy.gate, proxy.withheld = trio.Event(), trio.Event()
        await vm.start(GET_RANDOM)
        await proxy.withheld.wait()
        await vm.guest.send(vm.guest.client.pause()[1])
        with trio.move_on_after(0.05) as patience:
            await vm.guest.receive()
        assert patience.cancelled_caught
        proxy.gate.set()
        await vm.guest.expect(Ack)


@pytest.mark.needs("tpm2")
async def test_a_second_reader_of_the_same_tpm_agrees(tmp_path: Path) -> None:
    """tpm2-tools on the same swtpm print the PCR that the guest extended through CRB registers."""
    async with proxied(tmp_path) as proxy, tpm_vm(tmp_path, "swtpm-socket:data,tpm-control") as vm:
        found = await measure(vm)
        tcti = f"cmd:{sys.executable} {relay.__file__} {proxy.path}"
        tool = ["tpm2_pcrread", "-T", tcti, "sha256:10"]
        printed = await trio.run_process(tool, capture_stdout=True, capture_stderr=True)
    assert EXTENDED == found
    assert f"10: 0x{found.hex().upper()}" in printed.stdout.decode()


async def test_other_exits_go_on_while_the_tpm_is_silent(tmp_path: Path) -> None:
    """A proxy withholds the reply until 100 completions of a UART have come: they all come."""
    async with proxied(tmp_path) as proxy, tpm_vm(tmp_path, "swtpm-socket:data,tpm-control") as vm:
        assert 0 == code(await vm.execute(STARTUP))
        proxy.gate, proxy.withheld = trio.Event(), trio.Event()
        await vm.start(GET_RANDOM)
        with trio.fail_after(PATIENCE_S):
            await proxy.withheld.wait()
        completions = 0
        for number in range(100):
            data = bytes((number,))
            done = await vm.guest.exit(DecodedExit(1, 0, Space.PIO, WRITE, 0x3FF, 1, data=data))
            assert isinstance(done, Completed)
            completions += number == await vm.guest.inp(0x3FF, 1, vcpu=1)
        assert (100, 1) == (completions, await vm.get(START))
        proxy.gate.set()
        assert 0 == code(await vm.finish())


# --- stock firmware -----------------------------------------------------------------------------------


def conversations(trace: list[Record]) -> list[tuple[bytes, bytes]]:
    """Commands and responses in accesses to the CRB interface: what was written, what was read."""
    found: list[tuple[bytes, bytes]] = []
    written: dict[int, int] = {}
    read: dict[int, int] = {}
    for record in trace:
        if record[DEVICE] != "tpm":
            continue
        if record[REGISTER] == "data_buffer":
            cells = read if record[DIRECTION] == READ else written
            address, size, value = (int(record[field]) for field in (ADDRESS, SIZE, VALUE))
            cells.update(enumerate(value.to_bytes(size, "little"), address))
        elif record[REGISTER] == "ctrl_start" and record[DIRECTION] == WRITE:
            read = {}
        elif record[REGISTER] == "ctrl_req" and record[DIRECTION] == WRITE and read:
            found.append((bytes(written.values()), bytes(read.values())))
            written, read = {}, {}
    return found


@pytest.mark.needs("seabios", "unicorn")
async def test_stock_firmware_uses_the_tpm(tmp_path: Path) -> None:
    """SeaBIOS finds it by the ACPI table and sends its 17 commands, the first in Idle: all succeed."""
    machine = dict(config.read_machine(ROOT / "config" / "machines" / "pc-tpm.toml"))
    async with booting(tmp_path, Boot(machine)) as under_way:
        log = await under_way.reaches_its_end()
        talk = conversations(under_way.trace())
        tpm = under_way.daemon.machines["vm"].hosts["tpm"].device
    assert "table(324d5054)" in log
    codes = [int.from_bytes(sent[6:10], "big") for sent, _ in talk]
    assert [0x144, 0x143, 0x17A, 0x182, 0x182, 0x146, 0x17B, 0x129, *[0x182] * 9] == codes
    assert [0] * 17 == [int.from_bytes(answer[6:10], "big") for _, answer in talk]
    assert (1, False) == (tpm.state.early_commands, tpm.state.failed)
