"""The NVMe controller by NVM Express 1.4: registers, admin commands, limits; see test_nvme_io too."""

from __future__ import annotations

import struct
import uuid

import pytest

from devices.pci.nvme import Nvme, NvmeConfig
from mmiod.device.block import Medium
from mmiod.testing import Harness
from tests.devices.nvmes import ADMIN, DATA, ENABLE, ENTRIES, FATAL, IO, READY, Host, fields, host

DNR = 1 << 14
INVALID_FIELD = DNR | 0x002


def test_capabilities() -> None:
    """3.1.1, 3.1.2: 1024 entries, contiguous queues, NVM command set, pages of 4 KiB, version 1.4."""
    nvme = Harness(Nvme)
    cap = nvme.read("cap")
    assert (1023, 1, 1) == (cap & 0xFFFF, cap >> 16 & 1, cap >> 37 & 0xFF)
    assert (0, 0, 0) == (cap >> 32 & 0xF, cap >> 48 & 0xF, cap >> 52 & 0xF)
    assert (0x10400, 0x010802) == (nvme.read("vs"), nvme.read("class_code"))


def test_it_is_ready_when_the_image_is_known() -> None:
    """3.1.6: RDY follows EN, as soon as the image has answered; CC and the queues read back."""
    found = Host(Harness(Nvme))
    found.place()
    assert 0 == found.enable()
    found.serve()
    assert READY == found.nvme.read("csts")
    assert (0x4000, 0x6000, ENABLE) == tuple(found.nvme.read(name) for name in ("asq", "acq", "cc"))


@pytest.mark.parametrize(
    ("cc", "registers"),
    [
        (ENABLE | 1 << 7, {}),  # pages of 8 KiB
        (ENABLE | 1 << 4, {}),  # another command set
        (ENABLE | 1 << 11, {}),  # weighted round robin
        (0x0047_0001, {}),  # submissions of 128 bytes
        (0x0056_0001, {}),  # completions of 32 bytes
        (0x0045_0001, {}),
        (ENABLE, {"aqa": 0x0007_0000}),
        (ENABLE, {"aqa": 0x0000_0007}),
    ],
)
def test_what_cannot_be_enabled_is_fatal(cc: int, registers: dict[str, int]) -> None:
    """3.1.5, 3.1.8: CSTS.CFS and not RDY; a controller reset makes it good again."""
    found = host(queues=0)
    found.nvme.write("cc", 0)
    assert FATAL == found.enable(cc, **registers)
    found.nvme.write("doorbells0", 1)
    found.nvme.write("cc", 0)
    assert (0, READY) == (found.nvme.read("csts"), found.enable())


def test_a_controller_reset() -> None:
    """7.3.2: queues, mask and features are gone, AQA, ASQ and ACQ stay; late answers are nobody's."""
    found = host()
    found.held = True
    found.nvme.write("intms", 5)
    found.do(ADMIN, 9, dword10=6, dword11=0)
    found.submit(IO, 2)
    found.ring(IO)
    found.nvme.write("cc", 0)
    values = [found.nvme.read(name) for name in ("csts", "intms", "cc", "asq", "acq", "aqa")]
    assert [0, 0, 0, 0x4000, 0x6000, 0x0007_0007] == values
    assert READY == found.enable()
    before = found.get(DATA, 512)
    found.serve()
    assert (before, []) == (found.get(DATA, 512), found.completed(ADMIN))
    assert 1 == found.do(ADMIN, 10, dword10=6).result


@pytest.mark.parametrize("registers", [("intms", 0xFF, 0xFF), ("intmc", 0x0F, 0xF0)])
def test_mask_registers(registers: tuple[str, int, int]) -> None:
    """3.1.3, 3.1.4: INTMS sets, INTMC clears; both read the mask."""
    name, written, expected = registers
    nvme = Harness(Nvme)
    nvme.write("intms", 0xFF)
    nvme.write(name, written)
    assert (expected, expected) == (nvme.read("intms"), nvme.read("intmc"))


def test_shutdown() -> None:
    """7.6.2: SHST is 01b until the image has been flushed, then 10b; a reset clears it."""
    found = host(queues=0)
    found.nvme.write("cc", ENABLE | 1 << 14)
    during = found.nvme.read("csts") >> 2 & 3
    found.kinds.clear()
    found.serve()
    assert (1, ["flush"], 2) == (during, found.kinds, found.nvme.read("csts") >> 2 & 3)
    found.nvme.write("cc", 0)
    assert 0 == found.nvme.read("csts")


def test_shutdown_ends_where_the_image_fails() -> None:
    """A flush that fails ends it too: the guest cannot do anything about it."""
    found = host(queues=0)
    found.nvme.write("cc", ENABLE | 1 << 14)
    found.fail()
    assert 2 == found.nvme.read("csts") >> 2 & 3


# --- identify -------------------------------------------------------------------------------


def identified(found: Host, structure: int, namespace: int = 0) -> bytes:
    """What an Identify command gives."""
    assert not found.do(ADMIN, 6, namespace=namespace, dword10=structure).status
    return found.get(DATA, 4096)


def test_identify_controller() -> None:
    """5.15.2.2, by offsets of figure 247."""
    data = identified(host(config=NvmeConfig("XY-1")), 1)
    expected = {
        "vid": 0x1B36,
        "ssvid": 0x1AF4,
        "serial": b"XY-1".ljust(20),
        "mdts": 7,
        "version": 0x10400,
        "type": 1,
        "event limit": 0,
        "sqes": 0x66,
        "cqes": 0x44,
        "namespaces": 1,
        "oncs": 0b1100,
        "vwc": 7,
    }
    places = {
        "vid": (0, "<H"),
        "ssvid": (2, "<H"),
        "serial": (4, "20s"),
        "mdts": (77, "<B"),
        "version": (80, "<I"),
        "type": (111, "<B"),
        "event limit": (259, "<B"),
        "sqes": (512, "<B"),
        "cqes": (513, "<B"),
        "namespaces": (516, "<I"),
        "oncs": (520, "<H"),
        "vwc": (525, "<B"),
    }
    assert expected == fields(data, places)
    assert data[768:].startswith(b"nqn.2014-08.org.nvmexpress:uuid:")


@pytest.mark.parametrize("read_only", [False, True])
def test_identify_namespace(read_only: bool) -> None:
    """5.15.2.1: sizes in blocks of 2^9 bytes without metadata; NSATTR says if it may be written."""
    data = identified(host(read_only=read_only), 0, 1)
    assert (4000, 4000, 4000) == struct.unpack_from("<QQQ", data)
    assert (0, 0, int(read_only), 9 << 16) == (
        data[25],
        data[26],
        data[99],
        *struct.unpack_from("<I", data, 128),
    )


def test_active_namespaces_and_descriptors() -> None:
    """5.15.2.4: numbers above the one given; 5.15.2.3: a UUID, which differs with the serial number."""
    found, other = host(), host(config=NvmeConfig("other"))
    assert [1, 0] == [struct.unpack_from("<I", identified(found, 2, above))[0] for above in (0, 1)]
    first, second = (identified(each, 3, 1) for each in (found, other))
    assert (3, 16, bytes(4076)) == (first[0], first[1], first[20:])
    assert uuid.UUID(bytes=first[4:20]) != uuid.UUID(bytes=second[4:20])


@pytest.mark.parametrize(
    ("structure", "namespace", "status"),
    [(0, 2, 0x00B), (0, 0xFFFF_FFFF, 0x00B), (2, 0xFFFF_FFFE, 0x00B), (3, 0, 0x00B), (0x77, 1, 0x002)],
)
def test_identify_of_what_is_not_there(structure: int, namespace: int, status: int) -> None:
    """Invalid Namespace or Format; Invalid Field for a structure that is not supported."""
    assert DNR | status == host().do(ADMIN, 6, namespace=namespace, dword10=structure).status


def test_without_an_image_there_is_no_namespace() -> None:
    """The controller gets ready, lists nothing, and refuses I/O."""
    found = Host(Harness(Nvme))
    found.place()
    found.fail()
    assert READY == found.enable()
    found.create()
    assert bytes(8) == identified(found, 2)[:8]
    assert bytes(4096) == identified(found, 0, 1)
    assert INVALID_FIELD == found.do(IO, 2).status
    assert [("disk_failed", {"reason": "broken"})] == found.nvme.context.events


# --- queues ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opcode", "dword10", "dword11", "prp1", "status"),
    [
        (5, 0x0007_0000, 3, 0x9000, 0x101),  # the admin queue's number
        (5, 0x0007_0009, 3, 0x9000, 0x101),  # nine
        (5, 0x0007_0001, 3, 0x9000, 0x101),  # there already
        (5, 0x0000_0002, 3, 0x9000, 0x102),  # one entry
        (5, 0x0400_0002, 3, 0x9000, 0x102),  # 1025 entries
        (5, 0x0007_0002, 2, 0x9000, 0x002),  # not contiguous
        (5, 0x0007_0002, 1 << 16 | 3, 0x9000, 0x108),  # vector 1, without MSI-X
        (5, 0x0007_0002, 3, 0x9010, 0x013),  # not at a page
        (1, 0x0007_0002, 2 << 16 | 1, 0x9000, 0x100),  # completion queue 2
        (1, 0x0007_0002, 1, 0x9000, 0x100),  # completion queue 0
        (1, 0x0007_0001, 1 << 16 | 1, 0x9000, 0x101),
        (1, 0x0000_0002, 1 << 16 | 1, 0x9000, 0x102),
        (1, 0x0007_0002, 1 << 16, 0x9000, 0x002),
        (0, 0, 0, 0, 0x101),
        (0, 2, 0, 0, 0x101),
        (4, 0, 0, 0, 0x101),
        (4, 1, 0, 0, 0x10C),  # a submission queue leads to it
    ],
)
def test_queues_that_cannot_be(opcode: int, dword10: int, dword11: int, prp1: int, status: int) -> None:
    """5.3 to 5.6: the status codes of each, and nothing changes."""
    found = host()
    before = repr(found.nvme.device.state.session.submissions[1:])
    seen = found.do(ADMIN, opcode, dword10=dword10, dword11=dword11, prp1=prp1).status
    assert (status, status != 0x10C) == (seen & ~DNR, bool(seen & DNR))
    assert before == repr(found.nvme.device.state.session.submissions[1:])


def test_vectors_of_messages() -> None:
    """5.3: with MSI-X there are nine."""
    found = host(messages=True)
    asked = [found.do(ADMIN, 5, dword10=7 << 16 | 2, dword11=n << 16 | 3, prp1=0x9000).status for n in (9, 8)]
    assert [DNR | 0x108, 0] == asked


def test_queues_are_deleted() -> None:
    """7.4.3: commands of a deleted submission queue are aborted; then its completion queue can go."""
    found = host()
    found.held = True
    identifier = found.submit(IO, 2)
    found.ring(IO)
    assert 0 == found.do(ADMIN, 0, dword10=IO).status
    (ended,) = found.completed(IO)
    assert (identifier, 0x008) == (ended.identifier, ended.status)
    assert 0 == found.do(ADMIN, 4, dword10=IO).status
    found.serve()
    found.held = False
    found.create()
    assert 0 == found.do(IO, 0).status


def test_number_of_queues() -> None:
    """5.21.1.7: eight of each, zero-based; FFFFh is not allowed, nor anything once there are queues."""
    found = host(queues=0)
    got = [found.do(ADMIN, opcode, dword10=7, dword11=0x3F_003F).result for opcode in (9, 10)]
    assert [0x0007_0007] * 2 == got
    assert INVALID_FIELD == found.do(ADMIN, 9, dword10=7, dword11=0xFFFF).status
    found.create()
    assert DNR | 0x00C == found.do(ADMIN, 9, dword10=7, dword11=0x3F_003F).status


# --- features, logs, events -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "default", "value"),
    [
        (1, 0, 0x0102_0307),
        (2, 0, 0),
        (4, 343, 300),
        (5, 0, 7),
        (6, 1, 0),
        (8, 0, 0x0305),
        (10, 0, 1),
        (11, 0, 0x1F),
    ],
)
def test_features_are_set_and_got(feature: int, default: int, value: int) -> None:
    """5.9, 5.21: what 5.21.1 makes mandatory, and the write cache."""
    found = host()
    before = found.do(ADMIN, 10, dword10=feature).result
    assert 0 == found.do(ADMIN, 9, dword10=feature, dword11=value).status
    assert (default, value) == (before, found.do(ADMIN, 10, dword10=feature).result)


@pytest.mark.parametrize(
    ("opcode", "dword10", "dword11", "status"),
    [
        (9, 1 << 31 | 6, 1, 0x10D),
        (9, 9, 1, 0x10E),
        (9, 2, 3, 0x002),
        (9, 0x7F, 0, 0x002),
        (10, 0x7F, 0, 0x002),
        (10, 9, 9, 0x002),
    ],
)
def test_features_that_are_refused(opcode: int, dword10: int, dword11: int, status: int) -> None:
    """Not saveable, not changeable, no such power state, no such feature, no such vector."""
    assert DNR | status == host().do(ADMIN, opcode, dword10=dword10, dword11=dword11).status


def log(found: Host, number: int, dwords: int = 128, offset: int = 0, namespace: int = 0xFFFF_FFFF) -> int:
    """Ask for a log page; the status."""
    size = (dwords - 1) << 16 | number
    return found.do(ADMIN, 2, namespace=namespace, dword10=size, dword12=offset).status


def test_smart_log_counts() -> None:
    """5.14.1.2: data in thousands of 512 bytes rounded up, commands, media errors."""
    found = host()
    for opcode in (2, 2, 1):
        assert not found.do(IO, opcode, dword12=7).status
    found.held = True
    found.submit(IO, 2)
    found.ring(IO)
    found.fail()
    found.held = False
    assert 0 == log(found, 2)
    data = found.get(DATA, 512)
    counts = [int.from_bytes(data[offset : offset + 16], "little") for offset in (32, 48, 64, 80, 160, 176)]
    assert ([1, 1, 2, 1, 1, 1], 100) == (counts, data[3])


def test_error_log_has_the_last_failure() -> None:
    """5.14.1.1: number of the error, queue, command and status."""
    found = host()
    found.held = True
    identifier = found.submit(IO, 2)
    found.ring(IO)
    found.fail()
    assert 0x281 == found.completed(IO)[0].status
    assert 0 == log(found, 1, 16)
    assert (1, IO, identifier, 0x281 << 1) == struct.unpack_from("<QHHH", found.get(DATA, 64))


def test_firmware_log_and_offsets() -> None:
    """5.14.1.3: slot 1 is active; an offset shows a part; bad offsets, lengths and pages are refused."""
    found = host()
    assert (0, b"\1" + bytes(7) + b"1.0     ") == (log(found, 3), found.get(DATA, 16))
    assert (0, b"1.0     ") == (log(found, 3, 2, 8), found.get(DATA, 8))
    refused = [log(found, 3, 1, 2), log(found, 3, 1, 512), log(found, 3, namespace=1), log(found, 0x44)]
    assert [INVALID_FIELD, INVALID_FIELD, INVALID_FIELD, DNR | 0x109] == refused
    assert INVALID_FIELD == found.do(ADMIN, 2, namespace=0, dword10=3 | 0xFFFF << 16, dword11=0xFFFF).status


def test_events_tell_of_bad_doorbells() -> None:
    """5.2: one request is held, a second one is too many; events are masked until the log was read."""
    found = host()
    waiting = found.submit(ADMIN, 0x0C)
    found.ring(ADMIN)
    assert [] == found.completed(ADMIN)
    assert DNR | 0x105 == found.do(ADMIN, 0x0C).status
    found.nvme.write("doorbells6", 1)
    (told,) = found.completed(ADMIN)
    assert (waiting, 0, 0x01_0000) == (told.identifier, told.status, told.result)
    found.submit(ADMIN, 0x0C)
    found.ring(ADMIN)
    found.nvme.write("doorbells2", ENTRIES)
    assert [] == found.completed(ADMIN)
    assert 0 == log(found, 1, 16)
    found.nvme.write("doorbells2", ENTRIES)
    assert [0x01_0100] == [event.result for event in found.completed(ADMIN)]


def test_an_event_waits_for_its_request() -> None:
    """The first one is told when a request comes."""
    found = host()
    found.nvme.write("doorbells6", 1)
    found.nvme.write("doorbells2", ENTRIES)
    assert 0x01_0000 == found.do(ADMIN, 0x0C).result


def test_abort_aborts_nothing() -> None:
    """5.1: bit 0 of dword 0 says that the command was not aborted."""
    assert (1, 0) == ((found := host().do(ADMIN, 8, dword10=1)).result, found.status)


@pytest.mark.parametrize(("queue", "opcode"), [(ADMIN, 0x7F), (ADMIN, 0x80), (IO, 0x05), (IO, 0xFF)])
def test_opcodes_that_do_not_exist(queue: int, opcode: int) -> None:
    """Invalid Command Opcode."""
    assert DNR | 0x001 == host().do(queue, opcode).status


@pytest.mark.parametrize("flags", [1, 2, 0x40, 0x80])
@pytest.mark.parametrize(("queue", "opcode"), [(ADMIN, 6), (IO, 0)])
def test_fused_commands_and_lists_of_segments_are_refused(queue: int, opcode: int, flags: int) -> None:
    """4.2: FUSE and PSDT other than 0 are Invalid Field here."""
    assert INVALID_FIELD == host().do(queue, opcode, flags=flags).status


def test_medium_is_asked_for_again_after_a_restore() -> None:
    """The image may have another size there."""
    found = host()
    found.nvme.device.on_restore()
    found.medium = Medium(100)
    found.serve()
    assert DNR | 0x080 == found.do(IO, 2, dword10=100).status
