"""The NVMe controller's commands, data, interrupts and interruptions, by NVM Express 1.4."""

from __future__ import annotations

import struct
from random import Random

import pytest
from attrs import define

from devices.pci.nvme import Nvme
from mmiod.device.nvme.commands import MAX_COMMANDS
from mmiod.machine.plain import byte_form, text_form
from tests.devices.nvmes import ADMIN, DATA, ENABLE, IO, LIST, PAGE, SECTORS, Completion, Host, blocks, host

DNR = 1 << 14
FLUSH, WRITE, READ, ZEROES, MANAGE = 0, 1, 2, 8, 9
FUA = 1 << 30


def put_list(found: Host, at: int, pages: list[int]) -> None:
    """A list of pages."""
    found.put(at, struct.pack(f"<{len(pages)}Q", *pages))


# --- data, 4.3 ------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "count"), [(0, 1), (0, 8), (512, 7), (0x404, 1)])
def test_data_within_a_page(offset: int, count: int) -> None:
    """PRP 1 alone, with an offset."""
    found = host()
    assert 0 == found.do(IO, READ, prp1=DATA + offset, dword10=5, dword12=count - 1).status
    assert blocks(5, count) == found.get(DATA + offset, 512 * count)


def test_data_in_two_pages() -> None:
    """PRP 2 is the second page, wherever it is."""
    found = host()
    assert 0 == found.do(IO, READ, prp1=DATA + 0xC00, prp2=0x8_0000, dword12=9).status
    assert blocks(0, 10) == found.get(DATA + 0xC00, 1024) + found.get(0x8_0000, 4096)


@pytest.mark.parametrize("offset", [0, 0x200])
@pytest.mark.parametrize("at", [LIST, LIST + 0xF00, LIST + 0xFF8])
@pytest.mark.parametrize("opcode", [READ, WRITE])
def test_data_in_a_list_of_pages(offset: int, at: int, opcode: int) -> None:
    """PRP 2 is a list, which goes on in another page where the first one ends; pages in any order."""
    found = host()
    pages = [0x8_0000 + PAGE * ((7 * number) % 128) for number in range(1, 128)]
    room = (PAGE - at % PAGE) // 8
    if len(pages) > room:
        put_list(found, LIST + PAGE, pages[room - 1 :])
        put_list(found, at, [*pages[: room - 1], LIST + PAGE])
    else:
        put_list(found, at, pages)
    count = 1016
    content = Random(opcode).randbytes(512 * count)
    (split, last) = (PAGE - offset, 512 * count - (PAGE - offset))
    places = [
        (DATA + offset, split),
        *((page, min(PAGE, last - PAGE * n)) for n, page in enumerate(pages[: -(-last // PAGE)])),
    ]
    if opcode == WRITE:
        position = 0
        for gpa, size in places:
            found.put(gpa, content[position : position + size])
            position += size
    else:
        found.image[512 * 7 : 512 * (7 + count)] = content
    done = found.do(IO, opcode, prp1=DATA + offset, prp2=at, dword10=7, dword12=count - 1)
    seen = b"".join(found.get(gpa, size) for gpa, size in places)
    assert (0, content) == (
        done.status,
        found.image[512 * 7 : 512 * (7 + count)] if opcode == WRITE else seen,
    )


@pytest.mark.parametrize("opcode", [READ, WRITE])
@pytest.mark.parametrize(
    ("prp2", "count", "pages"),
    [
        (0x8_0200, 16, []),  # the second page has an offset
        (LIST + 4, 64, []),  # the list is not at a quadword
        (LIST, 64, [0x8_0000, 0x8_1008]),  # a page of the list has an offset
        (LIST + 0xFF8, 64, [LIST + PAGE + 8]),  # the list goes on within a page
    ],
)
def test_pages_with_offsets_are_refused(opcode: int, prp2: int, count: int, pages: list[int]) -> None:
    """PRP Offset Invalid; nothing is written to the image."""
    found = host()
    before = bytes(found.image)
    put_list(found, prp2 & ~7, pages)
    found.put(LIST + PAGE, bytes(PAGE))
    assert DNR | 0x013 == found.do(IO, opcode, prp2=prp2, dword12=count - 1).status
    assert before == bytes(found.image)


def test_data_outside_of_ram() -> None:
    """Reads of the host's data give ones, what the controller writes vanishes."""
    found = host()
    assert [0, 0] == [found.do(IO, opcode, prp1=1 << 40).status for opcode in (READ, WRITE)]
    assert b"\xff" * 512 == found.image[:512]


# --- commands, 6 ----------------------------------------------------------------------------


def test_what_was_written_is_read() -> None:
    """6.9, 6.15: 8 blocks at 100."""
    found = host()
    found.put(DATA, bytes(range(256)) * 16)
    assert 0 == found.do(IO, WRITE, dword10=100, dword12=7).status
    assert 0 == found.do(IO, READ, prp1=DATA + PAGE, dword10=100, dword12=7).status
    assert bytes(range(256)) * 16 == found.get(DATA + PAGE, 4096)


@pytest.mark.parametrize(
    ("opcode", "dword12", "cached", "kinds"),
    [
        (FLUSH, 0, True, ["flush"]),
        (WRITE, 0, True, ["write"]),
        (WRITE, FUA, True, ["write", "flush"]),
        (WRITE, 0, False, ["write", "flush"]),
        (READ, FUA, True, ["read"]),
        (ZEROES, 0, True, ["write_zeroes"]),
        (ZEROES, FUA, True, ["write_zeroes", "flush"]),
    ],
)
def test_what_the_image_is_asked(opcode: int, dword12: int, cached: bool, kinds: list[str]) -> None:
    """FUA, and a write cache that is off, flush behind a write."""
    found = host()
    assert 0 == found.do(ADMIN, 9, dword10=6, dword11=int(cached)).status
    found.kinds.clear()
    assert 0 == found.do(IO, opcode, dword12=dword12).status
    assert kinds == found.kinds


def test_flush_takes_all_namespaces() -> None:
    """6.8, VWC: FFFFFFFFh too; others are invalid, and I/O commands take one only."""
    found = host()
    asked = ((FLUSH, 0xFFFF_FFFF), (FLUSH, 0), (FLUSH, 2), (READ, 0xFFFF_FFFF))
    statuses = [found.do(IO, opcode, namespace=namespace).status for opcode, namespace in asked]
    assert [0, DNR | 0x00B, DNR | 0x00B, DNR | 0x00B] == statuses


def test_write_zeroes() -> None:
    """6.16: without data, up to 65536 blocks."""
    found = host()
    assert 0 == found.do(IO, ZEROES, dword10=1, dword12=2999).status
    assert bytes(512 * 3000) + blocks(3001, 999) == found.image[512:]


def test_deallocation() -> None:
    """6.7: ranges that are not empty are discarded, in pieces for the image; other hints are not taken."""
    found = host(sectors=1 << 20)
    ranges = ((0, 8, 64), (0, 0, 5), (0, (1 << 18) + 5, 1000))
    found.put(DATA, b"".join(struct.pack("<IIQ", *each) for each in ranges))
    found.kinds.clear()
    assert 0 == found.do(IO, MANAGE, dword10=2, dword11=0).status
    assert [] == found.kinds
    found.held = True
    found.submit(IO, MANAGE, dword10=2, dword11=4)
    found.ring(IO)
    asked = []
    while found.nvme.context.asked:
        asked.append((found.nvme.context.asked[0][2], *struct.unpack("<QI", found.nvme.context.asked[0][3])))
        found.serve(1)
    assert [
        ("discard", 64, 8),
        ("discard", 1000, 1 << 17),
        ("discard", 1000 + (1 << 17), 1 << 17),
        ("discard", 1000 + (1 << 18), 5),
    ] == asked
    assert [0] == [done.status for done in found.completed(IO)]


@pytest.mark.parametrize(
    ("opcode", "dwords", "status"),
    [
        (READ, {"dword10": SECTORS}, 0x080),
        (READ, {"dword10": SECTORS - 1, "dword12": 1}, 0x080),
        (READ, {"dword10": 0xFFFF_FFFF, "dword11": 0xFFFF_FFFF}, 0x080),
        (WRITE, {"dword10": SECTORS}, 0x080),
        (ZEROES, {"dword12": SECTORS}, 0x080),
        (READ, {"dword12": 1024}, 0x002),  # more than MDTS
        (WRITE, {"dword12": 1024}, 0x002),
        (MANAGE, {"dword11": 4}, 0x080),
    ],
)
def test_limits(opcode: int, dwords: dict[str, int], status: int) -> None:
    """Blocks behind the end are LBA Out of Range, longer transfers Invalid Field; nothing is asked."""
    found = host()
    found.put(DATA, struct.pack("<IIQ", 0, 2, SECTORS - 1))
    found.kinds.clear()
    assert DNR | status == found.do(IO, opcode, **dwords).status
    assert [] == found.kinds


@pytest.mark.parametrize("opcode", [WRITE, ZEROES, MANAGE])
def test_a_read_only_image(opcode: int) -> None:
    """Attempted Write to Read Only Range."""
    found = host(read_only=True)
    found.put(DATA, struct.pack("<IIQ", 0, 2, 0))
    assert [DNR | 0x182, 0] == [
        found.do(IO, each, dword11=4 if each == MANAGE else 0).status for each in (opcode, READ)
    ]


@pytest.mark.parametrize(("opcode", "status"), [(READ, 0x281), (WRITE, DNR | 0x280), (FLUSH, 0x006)])
def test_failures_of_the_image(opcode: int, status: int) -> None:
    """Unrecovered Read Error, Write Fault, Internal Error; and an event in the log."""
    found = host()
    found.held = True
    found.submit(IO, opcode)
    found.ring(IO)
    found.fail()
    assert [status] == [done.status for done in found.completed(IO)]
    assert [("disk_failed", {"reason": "broken"})] == found.nvme.context.events


# --- queues ---------------------------------------------------------------------------------


def test_queues_go_round() -> None:
    """4.1, 4.6: head and phase of 50 commands through 8 entries, in bunches of 7 and less."""
    found = host()
    random, seen = Random(1), 0
    while seen < 50:
        count = random.randrange(1, 8)
        identifiers = [found.submit(IO, READ, dword10=n) for n in range(count)]
        found.ring(IO)
        done = found.completed(IO)
        assert identifiers == [each.identifier for each in done]
        assert found.rings[IO].tail == done[-1].head
        seen += count


def test_commands_wait_for_room() -> None:
    """A completion queue that is full holds commands back, and no completion is lost."""
    found = host()
    first = [found.submit(IO, READ) for _ in range(7)]
    found.ring(IO)
    second = [found.submit(IO, READ) for _ in range(7)]
    found.ring(IO)
    taken = [found.completed(IO) for _ in range(3)]
    found.serve()
    taken.append(found.completed(IO))
    assert first + second == [done.identifier for each in taken for done in each]


def test_several_commands_are_under_way() -> None:
    """From four queues, round robin, up to the limit; the rest follows as answers come."""
    found = host(queues=0)
    for number in range(1, 5):
        found.create(number, 16)
    found.held = True
    for number in range(1, 5):
        for _ in range(15):
            found.submit(number, READ, dword10=number)
        found.nvme.device.state.session.submission(number).tail = found.rings[number].tail  # type: ignore[union-attr]
    found.ring(1)
    asked = [struct.unpack("<QI", data)[0] for _, _, _, data in found.nvme.context.asked]
    assert (MAX_COMMANDS, 8 * [1, 2, 3, 4]) == (len(asked), [(n - asked[0]) % 4 + 1 for n in asked])
    found.serve()
    assert [15, 15, 15, 15] == [len(found.completed(number)) for number in range(1, 5)]


def test_abandoned_requests_count() -> None:
    """Controller resets with commands and shutdowns under way make nothing grow."""
    found = host()
    found.held = True
    for _ in range(100):
        for _ in range(7):
            found.submit(ADMIN, 10, dword10=7)
        found.ring(ADMIN)
        found.nvme.write("cc", ENABLE | 1 << 14)
        found.nvme.write("cc", 0)
        found.enable()
        found.create()
        for _ in range(7):
            found.submit(IO, READ)
        found.ring(IO)
    assert len(found.nvme.context.asked) <= MAX_COMMANDS + 1
    found.serve()
    found.held = False
    found.nvme.write("cc", 0)
    found.enable()
    found.create()
    assert 0 == found.do(IO, READ).status


def test_bus_mastering() -> None:
    """Without it nothing is fetched; with it what waits is."""
    found = host()
    found.nvme.write("command", 2)
    found.submit(IO, READ)
    found.ring(IO)
    before = found.completed(IO)
    found.nvme.write("command", 6)
    found.serve()
    assert ([], 1) == (before, len(found.completed(IO)))


# --- interrupts, 7.5 ------------------------------------------------------------------------


def test_message_for_each_queue() -> None:
    """MSI-X: the vector that the queue was created with, after its entries; the pin stays low."""
    found = host(queues=2, messages=True)
    found.nvme.context.messages.clear()
    for queue in (2, 1, ADMIN):
        found.do(queue, 0 if queue else 8)
    assert ([2, 1, 0], False) == (
        [data for _, data in found.nvme.context.messages],
        found.nvme.levels["intx"],
    )


def test_pin_until_all_was_seen() -> None:
    """7.5.1.1: asserted while a completion queue has entries before its head; masked by bit of vector."""
    found = host()
    levels = []
    for write in (("intms", 1), ("intmc", 1)):
        found.submit(IO, READ)
        found.ring(IO)
        levels.append(found.nvme.levels["intx"])
        found.nvme.write(*write)
        levels.append(found.nvme.levels["intx"])
    found.completed(IO)
    levels.append(found.nvme.levels["intx"])
    assert [True, False, False, True, False] == levels


def test_queue_without_interrupts() -> None:
    """IEN 0: neither."""
    found = host()
    found.nvme.device.state.session.completions[1].interrupts = False
    found.submit(IO, READ)
    found.ring(IO)
    assert not found.nvme.levels["intx"]


# --- interruptions --------------------------------------------------------------------------


@define
class Stepped:
    """In the place of the framework's job: runs end when the test says so."""

    wanted: bool = False

    def start(self) -> None:
        """Remember it."""
        self.wanted = True

    def cancel(self) -> None:
        """Forget it."""
        self.wanted = False


def interrupted(found: Host, accesses: int) -> bool:
    """A run of so many accesses, which is then dropped; whether it came to its end."""
    memory = found.nvme.context.memory
    run, result = found.nvme.device._serve(), None
    for _ in range(accesses):
        try:
            access = run.send(result)  # type: ignore[arg-type]
        except StopIteration:
            return True
        result = access.perform(memory)
    run.close()
    return False


@pytest.mark.parametrize("form", [byte_form, text_form])
@pytest.mark.parametrize("seed", range(10))
def test_runs_may_begin_anew_at_any_access(seed: int, form: type) -> None:
    """Commands whose runs are dropped everywhere, and whose state is saved and restored, end once each."""
    random = Random(seed)
    found = host()
    found.held = True
    device = found.nvme.device
    found.nvme.device.jobs["serving"] = Stepped()  # type: ignore[assignment]
    put_list(found, LIST, [0x8_0000 + PAGE * n for n in range(8)])
    content = Random(seed).randbytes(PAGE * 4)
    found.put(0x9_0000, content)
    put_list(found, LIST + PAGE, [0x9_1000, 0x9_2000, 0x9_3000])
    identifiers = [
        found.submit(IO, READ, prp2=LIST, dword12=63),
        found.submit(IO, WRITE, prp1=0x9_0000, prp2=LIST + PAGE, dword10=2000, dword12=31 | FUA),
        found.submit(IO, 0x7F),
        found.submit(IO, READ, prp1=DATA + 0x8000, dword10=2000),
    ]
    found.ring(IO)
    expected = blocks(0, 64)
    kinds: list[str] = []
    ended: list[Completion] = []
    for limit in range(1, 200):
        if interrupted(found, random.randrange(1, 2 + limit // 8)):
            if len(ended) == len(identifiers):
                break
            found.kinds.clear()
            found.serve(1)
            kinds += found.kinds
        if random.random() < 0.5:
            ended += found.completed(IO)
        converter = form(Nvme)
        device.state = converter.structure(converter.unstructure(device.state), Nvme.state_class)
    assert sorted(identifiers) == sorted(done.identifier for done in ended)
    assert {identifiers[2]: DNR | 1} == {done.identifier: done.status for done in ended if done.status}
    assert expected == found.get(DATA, PAGE) + found.get(0x8_0000, 7 * PAGE)
    assert content == bytes(found.image[512 * 2000 :][: len(content)])
    assert content[:512] == found.get(DATA + 0x8000, 512)
    assert ["flush", "read", "read", "write"] == sorted(kinds)


@pytest.mark.parametrize("seed", range(20))
def test_entries_of_a_hostile_host(seed: int) -> None:
    """Random entries in random queues, random doorbells: no error, and what is kept has its bounds."""
    random, found = Random(seed), host(queues=3)
    for _ in range(300):
        for queue in range(4):
            entry = bytearray(random.randbytes(64))
            entry[0] = random.choice((0, 1, 2, 4, 5, 6, 8, 9, 10, 12, entry[0]))
            entry[1] = random.choice((0, 0, 0, entry[1]))
            entry[4:8] = random.choice((b"\1\0\0\0", b"\xff" * 4, bytes(4), entry[4:8]))
            for at in range(24, 64, 8):
                entry[at : at + 8] = random.choice(
                    (random.randrange(1 << 20), random.randrange(16), 0)
                ).to_bytes(8, "little")
            found.put(0x4000 * (queue + 1) + 64 * random.randrange(8), bytes(entry))
            found.nvme.write(f"doorbells{random.randrange(8)}", random.randrange(9))
        found.serve(random.randrange(8))
        state = found.nvme.device.state
        session = state.session
        assert len(session.flight) + len(session.done) <= MAX_COMMANDS + 1
        assert (True, True) == (len(session.submissions) <= 9, len(session.completions) <= 9)
        assert len(session.held) <= 1
        assert len(state.abandoned) <= MAX_COMMANDS + 1
