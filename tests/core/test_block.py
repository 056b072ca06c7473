"""The block backend on real files: sectors, bounds, locks, and QEMU as the other user of an image."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import PIPE

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings, strategies as st

from mmiod.core.backends import block, image as images
from mmiod.core.backends.block import BlockBackend
from mmiod.core.backends.faces import BackendFailed, Place, RequestRefused
from mmiod.core.backends.image import AT_ONCE, Image
from mmiod.core.backends.specs import service_backend
from mmiod.core.wiring import choose
from mmiod.device.block import AT, KINDS, MAX_RANGE, MAX_TRANSFER, RANGE, SECTOR, Medium
from mmiod.machine.description import BackendDescription, ImageDescription
from tests.core.backends import Bench, Peripheral, serving

SECTORS = 64
PLACE = Place("vm", "ide", "disk")


def made(directory: Path, sectors: int = SECTORS, name: str = "disk.img") -> Path:
    """An image whose sectors begin with their number."""
    path = directory / name
    path.write_bytes(b"".join(number.to_bytes(SECTOR, "little") for number in range(sectors)))
    return path


async def answer(bench: Bench, number: int) -> bytes | str:
    """The reply to a request, or why it failed."""
    await bench.until(lambda: number in dict(bench.device.answers))
    return dict(bench.device.answers)[number]


def descriptors() -> int:
    """How many this process has, but for what the collector has to close."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


# --- requests ------------------------------------------------------------------------------------


async def test_requests_reach_the_image_in_order(tmp_path: Path) -> None:
    """What one wrote the next one reads; each is answered by its number, and all of it is in the file."""
    path = made(tmp_path)
    async with serving(tmp_path, image="block:disk.img") as bench:
        disk = bench.device.image
        numbers = [disk.identify(), disk.write(3, b"x" * 1024), disk.read(2, 3), disk.flush()]
        medium, written, found, flushed = [await answer(bench, number) for number in numbers]
    assert [1, 2, 3, 4] == numbers
    assert Medium(SECTORS).reply() == medium
    assert b"" == written == flushed
    assert (2).to_bytes(SECTOR, "little") + b"x" * 1024 == found
    assert b"x" * 1024 == path.read_bytes()[3 * SECTOR : 5 * SECTOR]


writes = st.tuples(
    st.sampled_from(["write", "write_zeroes", "discard", "flush", "read"]),
    st.integers(0, SECTORS - 1),
    st.integers(1, 8),
    st.integers(0, 255),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(writes, max_size=12), st.sampled_from([None, errno.EOPNOTSUPP]))
def test_image_is_as_an_array_of_sectors(
    tmp_path: Path, steps: list[tuple[str, int, int, int]], refusal: int | None
) -> None:
    """Any sequence of requests, with and without a file system that can make holes.

    A discard leaves zeroes or what was there.
    """
    path = made(tmp_path)
    expected = bytearray(path.read_bytes())
    descriptor = os.open(path, os.O_RDWR)
    image = Image(descriptor, Medium(SECTORS))
    with pytest.MonkeyPatch.context() as patch:
        if refusal is not None:
            patch.setattr(images, "_fallocate", lambda *_: -1)
            patch.setattr(ctypes, "get_errno", lambda: refusal)
        for kind, sector, count, value in steps:
            taken = min(count, SECTORS - sector)
            begin, end = sector * SECTOR, (sector + taken) * SECTOR
            if kind == "write":
                expected[begin:end] = bytes([value]) * (end - begin)
                image.write(AT.pack(sector) + expected[begin:end])
            elif kind == "flush":
                image.flush(b"")
            elif kind == "read":
                assert expected[begin:end] == image.read(RANGE.pack(sector, taken))
            else:
                if kind == "write_zeroes" or refusal is None:
                    expected[begin:end] = bytes(end - begin)
                getattr(image, kind)(RANGE.pack(sector, taken))
    os.close(descriptor)
    assert expected == path.read_bytes()


async def test_discard_gives_space_back(tmp_path: Path) -> None:
    """The file has fewer blocks afterwards, and the same length."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"x" * (1 << 20))
    before = path.stat().st_blocks
    async with serving(tmp_path, image="block:disk.img") as bench:
        assert b"" == await answer(bench, bench.device.image.discard(0, 1024))
    assert (1 << 20) == path.stat().st_size
    assert path.stat().st_blocks <= before - 1000


async def test_what_the_host_has_in_memory_is_read_without_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just written sectors are; where the host would have to wait, or cannot say, a thread reads."""
    path = made(tmp_path)
    asked: list[int] = []

    def busy(*_: object) -> int:
        asked.append(len(asked))
        raise OSError([errno.EAGAIN, errno.EOPNOTSUPP][len(asked) - 1], "")

    async with serving(tmp_path, image="block:disk.img") as bench:
        await answer(bench, bench.device.image.identify())
        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", busy)
            for sector in (3, 4):
                expected = sector.to_bytes(SECTOR, "little")
                assert expected == await answer(bench, bench.device.image.read(sector, 1))
        assert [0, 1] == asked
    descriptor = os.open(path, os.O_RDONLY)
    image = Image(descriptor, Medium(SECTORS))
    assert image.at_hand(RANGE.pack(3, 2)) in {None, path.read_bytes()[3 * SECTOR : 5 * SECTOR]}
    os.truncate(path, 4 * SECTOR)
    assert image.at_hand(RANGE.pack(3, 2)) is None
    os.close(descriptor)


async def test_short_transfers_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host may take or give less than was asked for; the device gets all of it."""
    path = made(tmp_path)
    pread, pwrite, preadv, data = os.pread, os.pwrite, os.preadv, b"x" * 2 * SECTOR + b"y" * SECTOR
    monkeypatch.setattr(os, "pread", lambda file, length, offset: pread(file, min(length, 700), offset))
    monkeypatch.setattr(os, "pwrite", lambda file, part, offset: pwrite(file, part[:700], offset))
    monkeypatch.setattr(
        os, "preadv", lambda file, parts, offset, flags: preadv(file, [parts[0][:700]], offset, flags)
    )
    async with serving(tmp_path, image="block:disk.img") as bench:
        await answer(bench, bench.device.image.identify())
        assert b"" == await answer(bench, bench.device.image.write(5, data))
        assert data == await answer(bench, bench.device.image.read(5, 3))
    assert data == path.read_bytes()[5 * SECTOR : 8 * SECTOR]


@pytest.fixture(name="image")
async def _image(tmp_path: Path) -> AsyncIterator[Image]:
    """An open one."""
    descriptor = os.open(made(tmp_path), os.O_RDWR)
    image = Image(descriptor, Medium(SECTORS))
    yield image
    await image.close()


@pytest.fixture(name="slow")
def _slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set a write waits for the host's disk."""
    slow, pwrite, never = threading.Event(), os.pwrite, Host(-errno.EOPNOTSUPP)
    monkeypatch.setattr(os, "pwritev", never.pwritev)

    def wait(file: int, part: memoryview, offset: int) -> int:
        slow.wait()
        return pwrite(file, part, offset)

    monkeypatch.setattr(os, "pwrite", wait)
    return slow


class Host:
    """A file system that says of each write that must not wait how much it takes, or why not."""

    def __init__(self, *says: int) -> None:
        self.says, self.asked, self.threads = list(says), 0, list[int]()

    def pwritev(self, file: int, parts: list[memoryview], offset: int, flags: int) -> int:
        """A number of bytes, or less than that: an error."""
        assert os.RWF_NOWAIT == flags
        self.asked += 1
        said = self.says.pop(0)
        if said < 0:
            raise OSError(-said, os.strerror(-said))
        return self.write(file, parts[0][:said], offset)

    def pwrite(self, file: int, part: memoryview, offset: int) -> int:
        """One that may wait."""
        self.threads.append(threading.get_ident())
        return self.write(file, part, offset)

    write = staticmethod(os.pwrite)


@pytest.mark.parametrize(
    ("says", "asked", "waits"),
    [
        pytest.param((1024, 1024), 2, 0, id="all"),
        pytest.param((512, 1024), 2, 1, id="a part"),
        pytest.param((0, 1024), 2, 1, id="nothing"),
        pytest.param((-errno.EAGAIN, 1024), 2, 1, id="not now"),
        pytest.param((-errno.EOPNOTSUPP,), 1, 2, id="never"),
    ],
)
async def test_what_the_host_takes_without_waiting_needs_no_thread(
    image: Image, monkeypatch: pytest.MonkeyPatch, says: tuple[int, ...], asked: int, waits: int
) -> None:
    """What it does not take is written as a whole by one; a host that never does is not asked again."""
    host = Host(*says)
    monkeypatch.setattr(os, "pwritev", host.pwritev)
    monkeypatch.setattr(os, "pwrite", host.pwrite)
    for byte in (b"a", b"b"):
        assert b"" == await image.perform("write", AT.pack(3) + byte * 1024)
        assert byte * 1024 == await image.perform("read", RANGE.pack(3, 2))
    assert (asked, waits) == (host.asked, len(host.threads))
    assert threading.get_ident() not in host.threads


async def test_an_error_of_a_write_at_once_is_a_refusal(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not tried again by waiting."""
    host = Host(-errno.ENOSPC)
    monkeypatch.setattr(os, "pwritev", host.pwritev)
    monkeypatch.setattr(os, "pwrite", host.pwrite)
    with pytest.raises(RequestRefused, match="write: No space left on device"):
        image.at_once("write", AT.pack(3) + bytes(SECTOR))
    assert not host.threads


async def test_long_writes_are_not_done_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To copy them would hold up others."""
    host = Host()
    path = tmp_path / "long"
    path.write_bytes(bytes(2 * AT_ONCE))
    image = Image(os.open(path, os.O_RDWR), Medium(2 * AT_ONCE // SECTOR))
    monkeypatch.setattr(os, "pwritev", host.pwritev)
    assert b"" == await image.perform("write", AT.pack(0) + b"x" * (AT_ONCE + SECTOR))
    await image.close()
    assert 0 == host.asked
    assert b"x" * (AT_ONCE + SECTOR) == path.read_bytes()[: AT_ONCE + SECTOR]


async def test_a_write_that_takes_long_does_not_hold_up_the_core(image: Image, slow: threading.Event) -> None:
    """It goes on in the thread, once, and `perform` tells of its end."""
    written = AT.pack(3) + b"x" * SECTOR
    assert image.at_once("write", written) is None
    slow.set()
    assert b"" == await image.perform("write", written)
    assert b"x" * SECTOR == await image.perform("read", RANGE.pack(3, 1))


async def test_an_image_is_closed_behind_what_has_begun(tmp_path: Path, slow: threading.Event) -> None:
    """Nothing is written any more to a file that others may have by then."""
    path = made(tmp_path)
    image = Image(os.open(path, os.O_RDWR), Medium(SECTORS))
    assert image.at_once("write", AT.pack(0) + b"x" * SECTOR) is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(image.close)
        await trio.testing.wait_all_tasks_blocked()
        slow.set()
    assert b"x" * SECTOR == path.read_bytes()[:SECTOR]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(image.descriptor)


async def test_what_is_cancelled_before_it_begins_is_not_begun(image: Image) -> None:
    """A request that was not begun is not in doubt."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await image.perform("write", AT.pack(0) + b"x" * SECTOR)
    assert scope.cancelled_caught
    assert bytes(SECTOR) == await image.perform("read", RANGE.pack(0, 1))


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("read", RANGE.pack(SECTORS, 1), f"sectors {SECTORS}+1 of {SECTORS}"),
        ("read", RANGE.pack(SECTORS - 1, 2), f"sectors {SECTORS - 1}+2 of {SECTORS}"),
        ("read", RANGE.pack((1 << 64) - 1, 1), f"sectors {(1 << 64) - 1}+1 of {SECTORS}"),
        ("read", RANGE.pack(0, 0), "0 sectors; a request has 1 to 2048"),
        ("read", RANGE.pack(0, MAX_TRANSFER + 1), "2049 sectors; a request has 1 to 2048"),
        ("read", b"", "read: 0 bytes are no such request"),
        ("write", b"1234567", "write: 7 bytes are no such request"),
        ("write", AT.pack(0) + b"x", "write: 1 bytes are no sectors"),
        ("write", AT.pack(0), "0 sectors; a request has 1 to 2048"),
        ("write", AT.pack(SECTORS) + bytes(SECTOR), f"sectors {SECTORS}+1 of {SECTORS}"),
        ("discard", RANGE.pack(0, MAX_RANGE + 1), "131073 sectors; a request has 1 to 131072"),
        ("write_zeroes", RANGE.pack(SECTORS - 1, 2), f"sectors {SECTORS - 1}+2 of {SECTORS}"),
    ],
)
async def test_request_that_cannot_be_done_fails_alone(
    tmp_path: Path, kind: str, data: bytes, reason: str
) -> None:
    """The device gets the reason; the next request is served and the image is as it was."""
    path = made(tmp_path)
    before = path.read_bytes()
    async with serving(tmp_path, image="block:disk.img") as bench:
        assert reason == await answer(bench, bench.device.image.send(kind, data))
        assert before[:SECTOR] == await answer(bench, bench.device.image.read(0, 1))
    assert ["backend_opened"] == bench.events
    assert before == path.read_bytes()


@pytest.mark.parametrize("kind", ["write", "discard", "write_zeroes"])
async def test_image_that_is_read_only_is_not_changed(tmp_path: Path, kind: str) -> None:
    """Though the host would let us; `identify` says so."""
    path = made(tmp_path)
    before = path.read_bytes()
    spec = ImageDescription("block", "disk.img", read_only=True)
    data = AT.pack(1) + bytes(SECTOR) if kind == "write" else RANGE.pack(1, 1)
    async with serving(tmp_path, image=spec) as bench:
        assert Medium(SECTORS, read_only=True).reply() == await answer(bench, bench.device.image.identify())
        assert "the image is read-only" == await answer(bench, bench.device.image.send(kind, data))
        assert b"" == await answer(bench, bench.device.image.flush())
    assert before == path.read_bytes()


async def test_error_of_the_hosts_disk_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, a broken one: the device is told, the backend lives on."""
    made(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with serving(tmp_path, image="block:disk.img") as bench:
        await answer(bench, bench.device.image.identify())
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", fail)
            patch.setattr(os, "pwritev", fail)
            failed = await answer(bench, bench.device.image.write(0, bytes(SECTOR)))
        assert b"" == await answer(bench, bench.device.image.write(0, bytes(SECTOR)))
    assert "write: No space left on device" == failed
    assert ["backend_opened"] == bench.events


async def test_image_that_was_cut_meanwhile(tmp_path: Path) -> None:
    """What is not there any more is an error and no zeroes; a write does not make the file longer unseen."""
    path = made(tmp_path)
    async with serving(tmp_path, image="block:disk.img") as bench:
        await answer(bench, bench.device.image.identify())
        os.truncate(path, 1024)
        assert "read: the image ends at 0x400 now" == await answer(bench, bench.device.image.read(1, 2))


def test_effects_can_all_be_repeated(tmp_path: Path) -> None:
    """Done twice, a request leaves the image and its answer as done once: that is what idempotent means."""
    path = made(tmp_path)
    descriptor = os.open(path, os.O_RDWR)
    image = Image(descriptor, Medium(SECTORS))
    requests = {kind: RANGE.pack(5, 2) for kind in KINDS} | {"write": AT.pack(5) + b"y" * SECTOR}
    for kind, data in requests.items():
        once = getattr(image, kind)(data), path.read_bytes()
        assert once == (getattr(image, kind)(data), path.read_bytes()), kind
    os.close(descriptor)
    assert {"idempotent"} == {effect.value for effect in Peripheral.services["image"].effects.values()}


# --- who else has the image ----------------------------------------------------------------------


async def test_image_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """It is locked: requests fail with that reason until the other has gone."""
    path = made(tmp_path)
    async with serving(tmp_path, image="block:disk.img") as first:
        await answer(first, first.device.image.identify())
        async with serving(tmp_path, image="block:disk.img") as second:
            refused = await answer(second, second.device.image.identify())
            locked = second.facts("backend_failed")["reason"]
    async with serving(tmp_path, image="block:disk.img") as third:
        assert Medium(SECTORS).reply() == await answer(third, third.device.image.identify())
    assert f"{path} is locked: another program has it open" == refused == locked


async def test_readers_share_an_image(tmp_path: Path) -> None:
    """Two that only read have it at once; one that writes waits outside."""
    made(tmp_path)
    reader = ImageDescription("block", "disk.img", read_only=True)
    async with serving(tmp_path, image=reader) as first, serving(tmp_path, image=reader) as second:
        for bench in (first, second):
            assert isinstance(await answer(bench, bench.device.image.read(0, 1)), bytes)
        async with serving(tmp_path, image="block:disk.img") as third:
            assert "is locked" in str(await answer(third, third.device.image.read(0, 1)))


@pytest.mark.needs("qemu")
async def test_qemu_and_we_keep_each_other_out(tmp_path: Path) -> None:
    """A foreign program with locks of its own does not open an image that we have, nor we one of its."""
    drive = f"file={made(tmp_path)},format=raw,if=none,id=disk"
    command = ["qemu-system-x86_64", "-M", "pc", "-S", "-display", "none", "-nodefaults", "-drive", drive]
    async with serving(tmp_path, image="block:disk.img") as bench:
        await answer(bench, bench.device.image.identify())
        done = await trio.run_process(command, capture_stderr=True, check=False)
    assert b"Failed to lock byte 100" in done.stderr
    qemu = await trio.lowlevel.open_process([*command, "-qmp", "stdio"], stdin=PIPE, stdout=PIPE)
    assert qemu.stdout is not None
    assert b"QMP" in await qemu.stdout.receive_some()
    async with serving(tmp_path, image="block:disk.img") as bench:
        assert "is locked" in str(await answer(bench, bench.device.image.identify()))
    qemu.terminate()
    await qemu.wait()


async def test_lock_goes_with_the_backend(tmp_path: Path) -> None:
    """Nothing is left open."""
    path = made(tmp_path)
    before = descriptors()
    async with BlockBackend(path).open():
        pass
    assert before == descriptors()
    with path.open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, block._FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))


# --- what a machine file says ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.img", "No such file or directory"),
        (".", "is neither a file nor a block device"),
        ("odd.img", "has 1000 bytes, which are no sectors of 512"),
        ("empty.img", "has 0 bytes, which are no sectors of 512"),
        ("/dev/null", "is neither a file nor a block device"),
    ],
)
@pytest.mark.parametrize("table", [False, True])
def test_image_that_is_none_is_refused_at_start(
    tmp_path: Path, name: str, reason: str, *, table: bool
) -> None:
    """With service, value, path and reason."""
    (tmp_path / "odd.img").write_bytes(bytes(1000))
    (tmp_path / "empty.img").touch()
    spec: BackendDescription = ImageDescription("block", name) if table else f"block:{name}"
    place = Place("vm", "ide", "disk", tmp_path)
    with pytest.raises(ValueError) as refused:
        service_backend(spec, place, frozenset(KINDS))
    assert str(refused.value).startswith(f"service disk = 'block:{name}': {tmp_path / name}")
    assert str(refused.value).endswith(reason)


def test_image_that_changed_after_the_check_is_refused_later(tmp_path: Path) -> None:
    """A size that is none fails as the backend opens, and leaves nothing open."""
    path = made(tmp_path)
    os.truncate(path, 1000)
    before = descriptors()
    with pytest.raises(BackendFailed, match="1000 bytes"):
        BlockBackend(path)._open()
    assert before == descriptors()


@pytest.mark.parametrize(("read_only", "owned"), [(False, 1), (True, 0)])
def test_two_devices_of_a_daemon_do_not_write_one_image(
    tmp_path: Path, *, read_only: bool, owned: int
) -> None:
    """An image that is written is owned by one; `{vm}` in its path parts it."""
    made(tmp_path, name="vm.img")
    spec = ImageDescription("block", "{vm}.img", read_only)
    backends = choose(Peripheral, Place("vm", "dev", "", tmp_path), {"image": spec})
    assert [f"block:{tmp_path}/vm.img"] * owned == [owns for owns, _ in backends.owned()]


def test_backend_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A stream is no image, and a TPM is none."""
    made(tmp_path)
    spec = ImageDescription("block", "disk.img")
    place = Place("vm", "dev", "", tmp_path)
    with pytest.raises(ValueError, match=r"stream serial = 'block:disk\.img': a backend is null, log"):
        choose(Peripheral, place, {"serial": spec})
    with pytest.raises(ValueError, match=r"service disk = 'block:disk\.img': it does not do ask, execute"):
        choose(Peripheral, place, {"disk": spec})
    with pytest.raises(ValueError, match="service image = 'swtpm': it does not do discard, "):
        choose(Peripheral, place, {"image": "swtpm"})
