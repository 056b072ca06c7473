"""One exit executed: routed, probed before any effect, and done exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.core.run import Platform, run
from mmiod.device import PENDING, Device, Pending
from mmiod.machine.address_map import Policy
from mmiod.machine.description import DeviceDescription, Placement, UnclaimedDescription
from mmiod.machine.slot import Storage
from mmiod.values import (
    READ,
    WRITE,
    DecodedExit,
    Delta,
    Direction,
    Done,
    Fault,
    Forward,
    Intent,
    NeedBytes,
    NeedMemory,
    NeedTranslation,
    RawExit,
    Refusal,
    Refused,
    Retry,
    Segment,
    Space,
    Unsupported,
    Values,
    VcpuState,
)
from mmiod.x86 import Mode
from tests.core.guests import DEVICE, PAGE, PORT, RAM_PAGES, REMOTE, Guest, translations
from tests.machine.machines import Rig
from tests.x86.states import LMA, PE, PG, flat

RAX, RCX, RDX, RBX, RSI, RDI = 0, 1, 2, 3, 6, 7
LOAD, STORE, LOAD8, STORE8 = "8b03", "8903", "488b03", "488903"
ADD, LOCK_ADD, XCHG = "0103", "f00103", "8703"
CODE_AT = 0x7000


@pytest.fixture(name="guest")
def _guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.close()


def at(guest: Guest, code: str, **registers: object) -> Guest:
    """The guest is about to execute this, in 64-bit code without paging."""
    guest.state = flat(Mode.CODE64, rip=CODE_AT, **registers)
    guest.code = bytes.fromhex(code).ljust(15, b"\x90")
    return guest


def done(guest: Guest) -> Delta:
    """The delta of an instruction that is done at once."""
    completion = guest.once()
    assert isinstance(completion, Done), completion
    return completion.delta


# --- routing -----------------------------------------------------------------------------


def test_load_and_store_reach_the_device(guest: Guest) -> None:
    """A load's value goes to the register, a store's to the device; RIP is behind."""
    assert {RAX: 0x2827_2625} == done(at(guest, LOAD, rbx=DEVICE + 4)).registers
    assert CODE_AT + 2 == done(at(guest, STORE, rbx=DEVICE + 8, rax=0x1_2345_6789)).rip
    assert [("mmio read", 4, 4, 0x2827_2625), ("mmio write", 8, 4, 0x2345_6789)] == guest.log.accesses


def test_operand_across_the_end_of_ram_and_the_device_in_both_orders(guest: Guest) -> None:
    """Low page RAM, high page device, and the reverse: each part goes where it belongs."""
    guest.map(2, DEVICE - PAGE, PAGE)
    guest.map(3, DEVICE + 2 * PAGE, PAGE)
    guest.poke(DEVICE - 4, b"\x11\x12\x13\x14")
    guest.poke(DEVICE + 2 * PAGE, b"\x21\x22\x23\x24")

    low = done(at(guest, LOAD8, rbx=DEVICE - 4)).registers[RAX]
    high = done(at(guest, LOAD8, rbx=DEVICE + 2 * PAGE - 4)).registers[RAX]
    assert [
        ("mmio read", 0, 4, 0x2827_2625),
        ("mmio read", 2 * PAGE - 4, 4, 0x4D4C_4B4A),
    ] == guest.log.accesses
    assert (0x2827_2625_1413_1211, 0x2423_2221_4D4C_4B4A) == (low, high)

    guest.log.accesses.clear()
    value = 0x8877_6655_4433_2211
    done(at(guest, STORE8, rbx=DEVICE - 3, rax=value))
    done(at(guest, STORE8, rbx=DEVICE + 2 * PAGE - 3, rax=value))
    assert (b"\x11\x22\x33", b"\x44\x55\x66\x77\x88") == (
        guest.peek(DEVICE - 3, 3), guest.peek(DEVICE + 2 * PAGE, 5)
    )  # fmt: skip
    # Three and five bytes are no bus sizes: a power of two at a time.
    assert [
        ("mmio write", 0, 4, 0x7766_5544),
        ("mmio write", 4, 1, 0x88),
        ("mmio write", 2 * PAGE - 3, 2, 0x2211),
        ("mmio write", 2 * PAGE - 1, 1, 0x33),
    ] == guest.log.accesses


def test_device_claim_within_a_page_of_ram_wins_only_where_it_is() -> None:
    """Around a device that covers part of a page is RAM, for one access over its edge too."""
    guest = Guest(device_base=0x1800, device_pages=1)
    guest.map(2, (RAM_PAGES + 1) * PAGE, PAGE)
    guest.poke(0x17FC, b"\x11\x12\x13\x14")
    low = done(at(guest, LOAD8, rbx=0x17FC)).registers[RAX]
    guest.poke(0x2800, b"\x21\x22\x23\x24")
    high = done(at(guest, LOAD8, rbx=0x27FC)).registers[RAX]
    assert [0x1413_1211, 0x2423_2221] == [low & 0xFFFF_FFFF, high >> 32]
    assert [(0, 4), (PAGE - 4, 4)] == [access[1:3] for access in guest.log.accesses]
    guest.close()


def test_read_only_slot_drops_writes(guest: Guest) -> None:
    """ROM stays what it is, and the instruction is done."""
    guest.map(2, 0x40000, PAGE, read_only=True)
    assert CODE_AT + 2 == done(at(guest, STORE, rbx=0x40000, rax=5)).rip
    assert bytes(4) == guest.peek(0x40000, 4)
    done(at(guest, XCHG, rbx=0x40000, rax=5))
    assert bytes(4) == guest.peek(0x40000, 4)


@pytest.mark.parametrize("code", [LOCK_ADD, XCHG, ADD])
def test_read_modify_write_accesses_a_device_once_each_way(guest: Guest, code: str) -> None:
    """Locked or not: one read, one write."""
    done(at(guest, code, rbx=DEVICE, rax=1))
    value = 1 if code == XCHG else 0x2827_2626
    assert [("mmio read", 0, 4, 0x2827_2625), ("mmio write", 0, 4, value)] == guest.log.accesses


@pytest.mark.parametrize("gpa", [0x1000, 0x1FFE, REMOTE, REMOTE + PAGE - 2])
def test_locked_add_on_ram_of_both_kinds(guest: Guest, gpa: int) -> None:
    """Mapped RAM is changed here, other RAM by the delta; across a page end too."""
    guest.poke(gpa, b"\xff\xff\x01\x00")
    at(guest, LOCK_ADD, rbx=gpa, rax=2)
    completion = guest.execute(guest.exit)
    assert isinstance(completion, Done)
    assert b"\x01\x00\x02\x00" == guest.peek(gpa, 4)


def test_locked_instruction_that_lost_is_retried(guest: Guest) -> None:
    """Another vCPU changed RAM between read and write: RETRY, nothing written."""
    memory = guest.rig.machine.memory
    storage = cast("Storage", memory.slots[0].storage)

    class Racing:
        def read(self, offset: int, length: int) -> bytes:
            data = storage.read(offset, length)
            storage.write(offset, b"\x07" * length)
            return data

        def write(self, _offset: int, _data: bytes) -> None:
            raise AssertionError("written")

        def close(self) -> None:
            storage.close()

    memory.slots[0].storage = Racing()
    assert Retry() == at(guest, XCHG, rbx=0x1000, rax=5).once()


def test_attribute_bit_of_the_address_is_no_part_of_it(guest: Guest) -> None:
    """The C bit (or shared bit) in translations, in the hint and in a decoded exit."""
    bit = 1 << 47
    guest.platform = Platform(52, bit)
    at(guest, LOAD, rbx=0x5000)
    pages = translations({0x5000: DEVICE | bit})
    assert isinstance(guest.once(guest.exit(gpa=DEVICE | bit, translations=pages)), Done)
    guest.once(DecodedExit(0, 1, Space.MMIO, READ, DEVICE | bit, 4))
    assert [(0, 4), (0, 4)] == [access[1:3] for access in guest.log.accesses]


def test_ports(guest: Guest) -> None:
    """IN, OUT, and their strings, with RAM on the other side."""
    assert {RAX: 0x2827_2625} == done(at(guest, "ed", rdx=PORT)).registers
    done(at(guest, "ef", rdx=PORT + 4, rax=7))
    guest.log.accesses.clear()
    done(at(guest, "f36d", rdx=PORT, rdi=0x1000, rcx=2))
    done(at(guest, "f36f", rdx=PORT + 8, rsi=0x1000, rcx=2))
    assert [access[3] for access in guest.log.accesses[:2]] == [
        access[3] for access in guest.log.accesses[2:]
    ]
    assert ["pio read"] * 2 + ["pio write"] * 2 == [access[0] for access in guest.log.accesses]


# --- before any effect ---------------------------------------------------------------------


def paged(guest: Guest, code: str, **registers: object) -> Guest:
    """32-bit code whose page tables only the hypervisor can read."""
    guest.state = flat(Mode.CODE32, rip=CODE_AT, cr0=PE | PG, cr3=REMOTE, **registers)
    guest.code = bytes.fromhex(code).ljust(15, b"\x90")
    return guest


@pytest.mark.parametrize("code", ["8b03", "8903", "0103", "f00103", "8703"])
def test_fault_on_the_second_page_leaves_the_first_alone(code: str) -> None:
    """The page table ends behind the device: #PF for the second page, no access to the first."""
    guest = Guest()
    # SDM vol. 3, 4.3: a directory at 0x2000 with one table at 0x3000; present, writable, user.
    guest.poke(0x2000, (0x3007).to_bytes(4, "little"))
    guest.poke(0x3000 + 4 * 0x40, (DEVICE | 7).to_bytes(4, "little"))
    guest.state = flat(Mode.CODE32, rip=CODE_AT, cr0=PE | PG, cr3=0x2000, rbx=0x40FFE)
    guest.code = bytes.fromhex(code).ljust(15, b"\x90")
    # Accessed and dirty bits are the hypervisor's to set.
    known = {(0x40000, Intent.READ): DEVICE, (0x40000, Intent.WRITE): DEVICE}
    completion = guest.once(guest.exit(translations=known))
    error = 0 if code == "8b03" else 2
    assert Fault(14, error, 0x41000) == completion
    assert [] == guest.log.accesses
    guest.close()


@pytest.mark.parametrize(("gpa", "remote"), [(DEVICE, False), (REMOTE, True)])
def test_rep_keeps_its_progress_when_a_fault_comes(gpa: int, remote: bool) -> None:
    """The iterations before the fault are in its delta: RCX, RDI, RIP at the instruction, RAM to write."""
    guest = Guest()
    guest.poke(0x2000, (0x3007).to_bytes(4, "little"))
    guest.state = flat(Mode.CODE32, rip=CODE_AT, cr0=PE | PG, cr3=0x2000, rdi=0x40FF8, rcx=5, rax=7)
    guest.code = bytes.fromhex("f3ab").ljust(15, b"\x90")
    completion = guest.once(guest.exit(translations={(0x40000, Intent.WRITE): gpa}))
    assert isinstance(completion, Fault)
    assert completion.delta is not None
    assert (14, 0x41000, CODE_AT) == (completion.vector, completion.cr2, completion.delta.rip)
    assert {RDI: 0x41000, RCX: 3} == completion.delta.registers
    written = [(address - gpa, int.from_bytes(data, "little")) for address, data in completion.delta.memory]
    seen = [(offset, value) for _, offset, _, value in guest.log.accesses]
    both = [(0xFF8, 7), (0xFFC, 7)]
    assert ((both, []) if remote else ([], both)) == (written, seen)
    guest.close()


def test_rep_keeps_its_progress_when_something_is_missing(guest: Guest) -> None:
    """A question in the middle is no completion: what was done is, and the question comes next."""
    paged(guest, "f3a5", rsi=0x1000, rdi=0x5FF8, rcx=4)
    known = translations({0x1000: 0x1000, 0x5000: DEVICE})
    first = guest.once(guest.exit(translations=known))
    assert isinstance(first, Done)
    assert ({RSI: 0x1008, RDI: 0x6000, RCX: 2}, CODE_AT) == (first.delta.registers, first.delta.rip)
    guest.apply(first)
    assert NeedTranslation(0x6000, Intent.WRITE, 0) == guest.once(guest.exit(translations=known))
    assert 2 == len(guest.log.accesses)


def test_rep_reads_what_it_wrote_to_unmapped_ram(guest: Guest) -> None:
    """Overlapping MOVSB over RAM that messages reach: as on a processor, the first byte repeats."""
    guest.poke(REMOTE, bytes(range(16)))
    at(guest, "f3a4", rsi=REMOTE, rdi=REMOTE + 1, rcx=8)
    everything = [(REMOTE, guest.peek(REMOTE, 16))]
    guest.execute(lambda: guest.exit(memory=[*everything]) if guest.state.gpr[RCX] == 8 else guest.exit())
    assert bytes([0] * 9 + list(range(9, 16))) == guest.peek(REMOTE, 16)


def test_rep_stops_at_the_bound(guest: Guest) -> None:
    """A long string is cut; the guest executes the instruction again for the rest."""
    guest.rep_bound = 3
    delta = done(at(guest, "f3ab", rdi=DEVICE, rcx=7))
    assert ({RDI: DEVICE + 12, RCX: 4}, CODE_AT) == (delta.registers, delta.rip)


# --- restarts ------------------------------------------------------------------------------


def test_bytes_are_asked_for_until_the_instruction_is_whole(guest: Guest) -> None:
    """The code lies in RAM that only messages reach: need-bytes, then exactly one access."""
    at(guest, "c78300000000efbeadde", rbx=DEVICE)
    guest.state.rip = REMOTE + PAGE - 3
    guest.poke(guest.state.rip, guest.code)
    assert isinstance(guest.execute(lambda: guest.exit(code=b"")), Done)
    needed = [asked for asked in guest.asked if isinstance(asked, NeedBytes)]
    assert [REMOTE + PAGE - 3] == [asked.address for asked in needed][:1]
    assert all(0 < asked.count and asked.address // PAGE == (asked.address + asked.count - 1) // PAGE
               for asked in needed)  # fmt: skip
    assert [("mmio write", 0, 4, 0xDEAD_BEEF)] == guest.log.accesses


def test_code_in_mapped_ram_is_fetched_without_asking(guest: Guest) -> None:
    """A short or missing prefix is completed from RAM, over a page end too."""
    at(guest, "c78300000000efbeadde", rbx=DEVICE)
    guest.state.rip = 2 * PAGE - 3
    guest.poke(guest.state.rip, guest.code)
    for have in (0, 1, 4, 9):
        assert isinstance(guest.once(guest.exit(code=guest.code[:have])), Done)
    assert [("mmio write", 0, 4, 0xDEAD_BEEF)] * 4 == guest.log.accesses


def test_code_in_a_device_is_refused(guest: Guest) -> None:
    """Where there is no RAM, there is no instruction."""
    at(guest, LOAD, rbx=DEVICE)
    guest.state.rip = DEVICE
    assert Refused(Refusal.MMIO_FETCH) == guest.once(guest.exit(code=b""))


def test_modified_operand_across_device_and_unmapped_ram_reads_the_device_once() -> None:
    """It was probed for writing: the memory it also reads is asked for before the device is."""
    guest = Guest(device_base=REMOTE - PAGE, device_pages=1)
    at(guest, ADD, rbx=REMOTE - 2, rax=1)
    assert isinstance(guest.execute(guest.exit), Done)
    assert [NeedMemory(REMOTE, 2)] == guest.asked[:-1]
    assert ["mmio read", "mmio write"] == [access[0] for access in guest.log.accesses]
    guest.close()


@pytest.mark.parametrize(
    ("mode", "rip", "limit", "fault"),
    [
        (Mode.CODE32, 0xFFE, 0xFFF, None),
        (Mode.CODE32, 0xFFE, 0xFFE, Fault(13, 0)),
        (Mode.CODE16, 0xFFFF, 0xFFFF, Fault(13, 0)),
        (Mode.CODE64, (1 << 47) - 2, 0, None),  # the next one faults, not this
        (Mode.CODE64, (1 << 47) - 1, 0, Fault(13, 0)),
    ],
)
def test_instruction_ends_within_its_segment(
    guest: Guest, mode: Mode, rip: int, limit: int, fault: Fault | None
) -> None:
    """A byte beyond the limit of CS, or not canonical, cannot be fetched: #GP(0), no access."""
    guest.state = flat(mode, rip=rip, rbx=DEVICE)
    guest.state.segments[1].limit = limit
    guest.code = bytes.fromhex("67668b03" if mode is Mode.CODE16 else LOAD).ljust(15, b"\x90")
    completion = guest.once()
    assert (fault or Done) == (completion if fault else type(completion))
    assert bool(fault) == (not guest.log.accesses)


def test_code_on_a_page_that_is_not_there() -> None:
    """The instruction goes on behind the page: #PF for a fetch at the next one's first byte."""
    guest = Guest()
    # SDM vol. 3, 4.5: PAE with one table; NX is on, so the error code tells of a fetch.
    for gpa, entry in ((0x2000, 0x3001), (0x3000, 0x4027), (0x4000 + 8 * 7, 0x7067)):
        guest.poke(gpa, entry.to_bytes(8, "little"))
    guest.poke(0x8000 - 3, bytes.fromhex("c78300"))
    guest.state = flat(Mode.CODE32, rip=0x8000 - 3, cr0=PE | PG, cr3=0x2000, cr4=1 << 5, efer=1 << 11)
    assert Fault(14, 0x10, 0x8000) == guest.once(guest.exit(code=b""))
    guest.close()


PAGES = {"device": DEVICE, "device2": DEVICE + PAGE, "ram": 0x4000, "remote": REMOTE + PAGE}
INSTRUCTIONS = [
    LOAD,
    STORE,
    ADD,
    LOCK_ADD,
    XCHG,
    "0303",
    "f3a5",
    "f3a4",
    "f3ab",
    "f3ad",
    "a5",
    "ad",
    "ab",
    "f36d",
    "f36f",
]


@st.composite
def placements(draw: st.DrawFn) -> dict[int, int]:
    """Six linear pages, each of some kind; two of a kind may be one page."""
    kinds = draw(st.lists(st.sampled_from(sorted(PAGES)), min_size=6, max_size=6))
    return {0x40000 + PAGE * number: PAGES[kind] for number, kind in enumerate(kinds)}


@settings(max_examples=150)
@given(
    code=st.sampled_from(INSTRUCTIONS),
    pages=placements(),
    operand=st.integers(0x40000 + PAGE - 9, 0x40000 + PAGE + 2),
    source=st.integers(0x42000 + PAGE - 9, 0x42000 + PAGE + 2),
    target=st.integers(0x44000 + PAGE - 9, 0x44000 + PAGE + 2),
    count=st.integers(0, 6),
    bound=st.integers(1, 4),
    prefix=st.integers(0, 3),
    known=st.sets(st.integers(0, 5)),
    intents=st.sets(st.sampled_from(Intent)),
    supplied=st.booleans(),
)
def test_restarts_add_and_lose_no_device_access(
    code: str, pages: dict[int, int], operand: int, source: int, target: int, count: int, bound: int,
    prefix: int, known: set[int], intents: set[Intent], supplied: bool,
) -> None:  # fmt: skip
    """Whatever has to be asked for, the device sees what it sees in one undisturbed run."""

    def guest() -> Guest:
        made = Guest(rep_bound=bound)
        for gpa in (0x4000, REMOTE + PAGE):
            made.poke(gpa, bytes(n * 5 & 0xFF for n in range(PAGE)))
        registers = {
            "rbx": operand,
            "rsi": source,
            "rdi": target,
            "rcx": count,
            "rax": 0x1234_5678,
            "rdx": PORT,
        }
        paged(made, code, **registers)
        made.state.rip = REMOTE
        made.poke(REMOTE, made.code)
        return made

    def translate(gva: int) -> int:
        return pages.get(gva, gva)

    whole = guest()
    everything = translations({**pages, REMOTE: REMOTE})
    calm = whole.execute(
        lambda: whole.exit(
            translations=everything, memory=[(REMOTE + PAGE, bytes(whole.remote[PAGE : 2 * PAGE]))]
        )
    )

    part = guest()
    some = {
        key: gpa
        for key, gpa in everything.items()
        if key[1] in intents and ((key[0] - 0x40000) // PAGE in known or key[0] == REMOTE)
    }
    disturbed = part.execute(
        lambda: part.exit(
            code=part.code[:prefix],
            translations=some,
            memory=[(REMOTE + PAGE, bytes(part.remote[PAGE : PAGE + 64]))] if supplied else [],
        ),
        translate,
    )

    assert isinstance(calm, Done)
    assert isinstance(disturbed, Done)
    assert whole.log.accesses == part.log.accesses
    assert (whole.state.gpr, whole.state.rip, whole.state.rflags) == (
        part.state.gpr, part.state.rip, part.state.rflags
    )  # fmt: skip
    assert whole.remote == part.remote
    assert whole.peek(0x4000, PAGE) == part.peek(0x4000, PAGE)
    whole.close()
    part.close()


# --- what the exit says ---------------------------------------------------------------------


def test_instruction_that_does_not_touch_the_named_page_is_refused(guest: Guest) -> None:
    """Stale bytes: the hint is not what they access; nothing is done."""
    at(guest, STORE, rbx=DEVICE)
    assert Refused(Refusal.ADDRESS_MISMATCH) == guest.once(guest.exit(gpa=DEVICE + PAGE))
    at(guest, "90")
    assert Unsupported(guest.code) == guest.once(guest.exit(gpa=DEVICE))
    at(guest, "f3ab", rdi=DEVICE, rcx=0)
    assert Refused(Refusal.ADDRESS_MISMATCH) == guest.once(guest.exit(gpa=DEVICE))
    assert [] == guest.log.accesses


def test_hint_may_name_either_operand(guest: Guest) -> None:
    """MOVS touches two pages: either may be the one that exited."""
    for gpa in (0x1000, DEVICE):
        at(guest, "a5", rsi=0x1000, rdi=DEVICE)
        assert isinstance(guest.once(guest.exit(gpa=gpa)), Done)
    assert 2 == len(guest.log.accesses)


def test_port_string_that_asks_the_permission_map_first_fits_its_hint(guest: Guest) -> None:
    """INS at CPL 3: the TSS is read before the operand is reached, and the hint is the operand's."""
    at(guest, "6d", rdx=PORT, rdi=DEVICE, cpl=3, tr=Segment(0x3000, 0x2000, 0x28, 0x8B))
    guest.poke(0x3066, (0x68).to_bytes(2, "little"))
    assert isinstance(guest.once(guest.exit(gpa=DEVICE)), Done)
    assert ["pio read", "mmio write"] == [access[0] for access in guest.log.accesses]


def test_page_that_was_read_for_the_processor_is_not_thereby_the_users() -> None:
    """OUTS at CPL 3 from the supervisor page of its own TSS: #PF, as on a processor."""
    guest = Guest()
    guest.poke(0x2000, (0x3007).to_bytes(4, "little"))
    for page, flags in ((0x5, 0x63), (0x7, 0x67)):  # the TSS is the supervisor's; accessed, dirty
        guest.poke(0x3000 + 4 * page, (page << 12 | flags).to_bytes(4, "little"))
    guest.poke(0x2000, (0x3027).to_bytes(4, "little"))
    guest.state = flat(
        Mode.CODE32, rip=CODE_AT, cr0=PE | PG, cr3=0x2000, cpl=3, rdx=PORT, rsi=0x5010,
        tr=Segment(0x5000, 0x2000, 0x28, 0x8B),
    )  # fmt: skip
    guest.code = bytes.fromhex("6f").ljust(15, b"\x90")
    guest.poke(0x5066, (0x68).to_bytes(2, "little"))
    assert Fault(14, 5, 0x5010) == guest.once()
    assert [] == guest.log.accesses
    guest.close()


def test_named_page_needs_no_walk(guest: Guest) -> None:
    """Hint with linear address: the translation is known, unless it was for reading and is for writing."""
    paged(guest, STORE, rbx=0x5008)
    assert isinstance(guest.once(guest.exit(gpa=DEVICE + 8, gva=0x5008, intent=Intent.WRITE)), Done)
    paged(guest, STORE, rbx=0x5008)
    assert NeedTranslation(0x5008, Intent.WRITE, 0) == guest.once(
        guest.exit(gpa=DEVICE + 8, gva=0x5008, intent=Intent.READ)
    )


def test_event_delivery_has_no_instruction(guest: Guest) -> None:
    """Pushing a frame touched the device: refused, nothing decoded."""
    at(guest, STORE, rbx=DEVICE)
    assert Refused(Refusal.EVENT_DELIVERY) == guest.once(guest.exit(event_delivery=True))


def test_undefined_and_unsupported(guest: Guest) -> None:
    """#UD is the guest's; what we do not execute is told with its bytes."""
    assert Fault(6) == at(guest, "f08903", rbx=DEVICE).once()  # LOCK needs a read-modify-write
    at(guest, "0fae00", rax=DEVICE)  # FXSAVE
    assert Unsupported(guest.code) == guest.once()
    assert [] == guest.log.accesses


def test_linear_addresses_wrap_at_4_gib_outside_of_64_bit_code(guest: Guest) -> None:
    """SDM vol. 3, 3.3: base + offset wraps; so does an operand over the end."""
    guest.map(2, 0xFFFF_F000, PAGE)
    guest.poke(0xFFFF_FFFE, b"\x11\x12")
    guest.poke(0, b"\x13\x14")
    guest.state = flat(Mode.CODE32, rip=CODE_AT, rbx=0xFFFF_EFFE)
    guest.state.segments[3] = Segment(0x1000, 0xFFFF_FFFF, 8, 0xC093)
    guest.code = bytes.fromhex(LOAD).ljust(15, b"\x90")
    assert {RAX: 0x1413_1211} == done(guest).registers


# --- forward --------------------------------------------------------------------------------


FORWARD = (
    UnclaimedDescription(Space.MMIO, 0x50000, 0x1000, Policy.FORWARD),
    UnclaimedDescription(Space.PIO, 0x300, 0x10, Policy.FORWARD),
)


@pytest.mark.parametrize(
    ("code", "registers"),
    [
        (LOAD, {"rbx": 0x50000}),
        (STORE, {"rbx": 0x4FFFE}),
        (LOCK_ADD, {"rbx": 0x50FFC}),
        ("a5", {"rsi": DEVICE, "rdi": 0x50000}),
        ("ed", {"rdx": 0x300}),
        ("ef", {"rdx": 0x2FE}),
        ("6d", {"rdx": 0x300, "rdi": DEVICE}),
        ("6f", {"rdx": 0x300, "rsi": DEVICE}),
        ("f36f", {"rdx": 0x2FE, "rsi": DEVICE, "rcx": 3}),
    ],
)
def test_what_is_forwarded_is_handed_back_before_any_effect(code: str, registers: dict[str, int]) -> None:
    """A range of the hypervisor's: it gets the whole instruction, memory or port."""
    guest = Guest(unclaimed=FORWARD)
    guest.map(2, 0x4F000, PAGE)
    assert Forward() == at(guest, code, **registers).once()
    assert [] == guest.log.accesses
    guest.close()


def test_decoded_exit_that_is_forwarded() -> None:
    """The access is the hypervisor's to answer."""
    guest = Guest(unclaimed=FORWARD)
    assert Forward() == guest.once(DecodedExit(0, 1, Space.PIO, READ, 0x300, 1))
    guest.close()


@pytest.mark.parametrize(
    ("address", "size", "count", "stride"),
    [
        (0x50000 - 2, 4, 1, 0),
        (0x50000 - 8, 4, 3, 1),
        (0x50000 + PAGE, 4, 3, -1),
        (0x50000 + PAGE - 2, 4, 1, 0),
    ],
)
def test_decoded_exit_that_is_partly_forwarded(address: int, size: int, count: int, stride: int) -> None:
    """The hypervisor answers all of it, as of an instruction: no part is done twice, none is lost."""
    guest = Guest(unclaimed=FORWARD, device_base=0x50000 - PAGE, device_pages=1)
    exit_ = DecodedExit(0, 1, Space.MMIO, WRITE, address, size, count, stride, bytes(size * count))
    assert Forward() == guest.once(exit_)
    assert [] == guest.log.accesses
    guest.close()


# --- decoded ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "address", "stride", "offsets"),
    [
        (Space.PIO, PORT, 0, [0, 0, 0]),
        (Space.MMIO, DEVICE, 1, [0, 4, 8]),
        (Space.MMIO, DEVICE + 8, -1, [8, 4, 0]),
    ],
)
@pytest.mark.parametrize("direction", Direction)
def test_elements_of_a_decoded_exit(
    guest: Guest, space: Space, address: int, stride: int, offsets: list[int], direction: Direction
) -> None:
    """Each element is one access, in order, at ascending, descending or one address."""
    data = bytes(range(12)) if direction == WRITE else b""
    completion = guest.once(DecodedExit(0, 1, space, direction, address, 4, 3, stride, data))
    assert offsets == [access[1] for access in guest.log.accesses]
    values = b"".join(access[3].to_bytes(4, "little") for access in guest.log.accesses)
    assert Values(values if direction == READ else b"") == completion
    assert data in {b"", values}


@pytest.mark.parametrize(
    ("space", "address", "stride"),
    [
        (Space.PIO, 0xFFFE, 1),
        (Space.PIO, 2, -1),
        (Space.MMIO, (1 << 64) - 4, 1),
    ],
)
def test_elements_beyond_the_space_do_no_harm(guest: Guest, space: Space, address: int, stride: int) -> None:
    """A peer may count over the end of a space: addresses wrap, nobody answers."""
    completion = guest.once(DecodedExit(0, 1, space, READ, address, 4, 8, stride))
    assert Values(b"\xff" * 32) == completion


# --- waiting -----------------------------------------------------------------------------------


class Slow(Device):
    """Answers when told to."""

    length = 8

    def read(self, _offset: int, _size: int) -> Pending:
        """A read."""
        return PENDING

    def write(self, _offset: int, _size: int, _value: int) -> Pending:
        """A write."""
        return PENDING


def test_exits_wait_for_a_device_and_for_each_other() -> None:
    """PENDING yields the host and takes its answer; BUSY asks anew when the device is free."""
    rig = Rig({"slow": (Slow, DeviceDescription("test/slow", at={"main": Placement(Space.MMIO, 0)}))})
    host = rig.machine.hosts["slow"]

    def start(vcpu: int) -> object:
        running = run(rig.machine, DecodedExit(vcpu, 1, Space.MMIO, READ, 0, 4), Platform(), 16)
        assert host is next(running)
        return running

    first, second = start(0), start(1)
    for running, value in ((first, 0x11), (second, 0x22)):
        host.device.complete(value)
        ((settled, answer),) = rig.machine.settled
        rig.machine.settled.clear()
        assert (host, value) == (settled, answer)
        with pytest.raises(StopIteration) as finished:
            running.send(answer)  # type: ignore[attr-defined]
        assert Values(value.to_bytes(4, "little")) == finished.value.value
        if running is first:
            assert host is second.send(None)  # type: ignore[attr-defined]
    statistics = host.statistics
    assert 2 == statistics.reads


@pytest.mark.parametrize(
    ("code", "registers"), [("6d", {"rdx": PORT, "rdi": 0x4000}), (LOAD, {"rbx": 0x3FFE})]
)
def test_ram_may_go_while_a_device_is_waited_for(code: str, registers: dict[str, int]) -> None:
    """UNMAP during an exit: what is left of it reads ones there and writes nowhere."""
    slow = DeviceDescription("test/slow", at={"main": Placement(Space.PIO, PORT)})
    below = DeviceDescription("test/slow", at={"main": Placement(Space.MMIO, 0x4000 - 8)})
    guest = Guest()
    memory = guest.rig.machine.memory
    guest.rig = Rig({"port": (Slow, slow), "slow": (Slow, below)})
    guest.rig.machine.memory = memory
    at(guest, code, **registers)
    running = run(guest.rig.machine, guest.exit(), guest.platform, guest.rep_bound)
    next(running)
    guest.close()
    with pytest.raises(StopIteration) as finished:
        running.send(0x1122)
    assert isinstance(finished.value.value, Done)


def test_device_may_move_while_a_port_is_waited_for() -> None:
    """INS: what was at its destination before the wait gets nothing; who is there now is written to."""
    slow = DeviceDescription("test/slow", at={"main": Placement(Space.PIO, PORT)})
    moving = DeviceDescription("test/slow", at={"main": Placement(Space.MMIO, 0x9000)})
    rig = Rig({"port": (Slow, slow), "moving": (Slow, moving)})
    guest = Guest()
    guest.close()
    guest.rig = rig
    at(guest, "6d", rdx=PORT, rdi=0x9000)
    running = run(rig.machine, guest.exit(), guest.platform, guest.rep_bound)
    assert rig.machine.hosts["port"] is next(running)
    rig.machine.place("moving", Slow.regions["main"], Space.MMIO, None)
    with pytest.raises(StopIteration) as finished:
        running.send(0x1122)
    assert isinstance(finished.value.value, Done)
    assert 0 == rig.machine.hosts["moving"].statistics.writes


def test_state_of_the_vcpu_is_only_read(guest: Guest) -> None:
    """What an instruction does is its delta; the exit's state can be sent again."""
    at(guest, "f3a5", rsi=0x1000, rdi=DEVICE, rcx=3)
    before = VcpuState(**{name: getattr(guest.state, name) for name in ("rip", "rflags", "cr0", "efer")})
    gpr = list(guest.state.gpr)
    exit_: RawExit = guest.exit()
    guest.once(exit_)
    assert (gpr, before.rip, before.rflags) == (exit_.state.gpr, exit_.state.rip, exit_.state.rflags)
    assert LMA == before.efer
