"""Structures that a C program lays out, through a real machine and back: see foreign.c."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mmiod.machine.address_map import Policy
from mmiod.machine.description import UnclaimedDescription
from mmiod.protocol.exit import Reply
from mmiod.values import (
    Done,
    Fault,
    Forward,
    NeedBytes,
    NeedMemory,
    NeedRegisters,
    Refusal,
    Refused,
    RegisterSet,
    Space,
)
from tests.protocol.sources.conftest import Foreign, Tell
from tests.protocol.sources.stage import MMIO, POINTED, RIP, Stage, flat32

pytestmark = [pytest.mark.needs("gcc"), pytest.mark.needs("xen")]

OnStage = Callable[..., Stage]

FIRST = 0x2C2B_2A29_2827_2625
"""What the device's first read gives, as 8 bytes."""
VALUE = 0x1122_3344_5566_7788

GHCB_OK = {"valid-info1": 1, "valid-info2": 1, "info1": 0, "info2": 0}
"""Of a reply: nothing to raise, and nothing returned but that."""


def ghcb(**fields: int) -> dict[str, int]:
    """A reply of a GHCB."""
    return {**GHCB_OK, **fields}


CASES = [
    # source, structure, what the device saw, what came back
    ("GHCB", "ghcb_out", [("pio write", 0, 2, 0x1234)], ghcb(rax=0xDEADBEEF_00001234)),
    ("GHCB", "ghcb_in", [("pio read", 4, 1, 0x25)], {**ghcb(rax=0xDEADBEEF_0000FF25), "valid-rax": 1}),
    (
        "GHCB",
        "ghcb_outs",
        [("pio write", 0, 2, 0x0201), ("pio write", 0, 2, 0x0403), ("pio write", 0, 2, 0x0605)],
        ghcb(),
    ),
    (
        "GHCB",
        "ghcb_ins",
        [("pio read", 0, 4, 0x28272625), ("pio read", 0, 4, 0x4D4C4B4A)],
        ghcb(shared=0, shared8=0x4D4C4B4A_28272625),
    ),
    ("GHCB", "ghcb_mmio_read", [("mmio read", 8, 4, 0x28272625)], ghcb(shared=0x28272625)),
    ("GHCB", "ghcb_mmio_write", [("mmio write", 8, 8, VALUE)], ghcb()),
    (
        "GHCB",
        "ghcb_rdmsr",
        [("msr read", 0, 8, FIRST)],
        {**ghcb(rax=0x28272625, rdx=0x2C2B2A29), "valid-rax": 1, "valid-rdx": 1},
    ),
    ("GHCB", "ghcb_wrmsr", [("msr write", 0, 8, VALUE)], ghcb()),
    ("SVM", "svm_npf_read", [("mmio read", 0x20, 4, 0x28272625)], {"rcx": 0x28272625, "rip": RIP + 2}),
    ("SVM", "svm_npf_write", [("mmio write", 0x20, 4, 0x11112222)], {"rip": RIP + 2, "event": 0}),
    ("SVM", "svm_npf_walk", [("mmio write", 0x20, 4, 0x11112222)], {"rip": RIP + 2}),
    ("SVM", "svm_npf_lock", [], {"rip": RIP, "event": 0x8000_0306}),
    ("SVM", "svm_in", [("pio read", 0, 2, 0x2625)], {"rax": 0x11112625, "rip": RIP + 2}),
    ("SVM", "svm_in32", [("pio read", 0, 4, 0x28272625)], {"rax": 0x28272625, "rip": RIP + 1}),
    ("SVM", "svm_out", [("pio write", 0, 4, 0x11112222)], {"rax": 0x11112222, "rip": RIP + 1}),
    (
        "SVM",
        "svm_outs",
        [("pio write", 0, 1, 1), ("pio write", 0, 1, 2), ("pio write", 0, 1, 3)],
        {"rcx": 0, "rsi": POINTED + 3, "rip": RIP + 2},
    ),
    ("SVM", "svm_rdmsr", [("msr read", 0, 8, FIRST)], {"rax": 0x28272625, "rdx": 0x2C2B2A29, "rip": RIP + 2}),
    ("TDVMCALL", "tdx_in", [("pio read", 0, 4, 0x28272625)], {"r10": 0, "r11": 0x28272625}),
    ("TDVMCALL", "tdx_out", [("pio write", 0, 2, 0x1234)], {"r10": 0}),
    ("TDVMCALL", "tdx_read", [("mmio read", 8, 8, FIRST)], {"r10": 0, "r11": FIRST}),
    ("TDVMCALL", "tdx_write", [("mmio write", 8, 1, 0x99)], {"r10": 0}),
    ("TDVMCALL", "tdx_rdmsr", [("msr read", 0, 8, FIRST)], {"r10": 0, "r11": FIRST}),
    ("TDVMCALL", "tdx_wrmsr", [("msr write", 0, 8, VALUE)], {"r10": 0}),
    ("TD_L2", "td_l2_in", [("pio read", 0, 2, 0x2625)], {"rax": 0x11112625, "rip": RIP + 1, "size": 384}),
    ("TD_L2", "td_l2_pending", [("pio read", 0, 2, 0x2625)], {"rax": 0x11112625, "rip": RIP + 1}),
    (
        "TD_L2",
        "td_l2_rdmsr",
        [("msr read", 0, 8, FIRST)],
        {"rax": 0x28272625, "rdx": 0x2C2B2A29, "rip": RIP + 2},
    ),
    (
        "KVM",
        "kvm_in",
        [("pio read", 0, 2, 0x2625), ("pio read", 0, 2, 0x4B4A), ("pio read", 0, 2, 0x706F)],
        {"io": 0x706F_4B4A_2625},
    ),
    (
        "KVM",
        "kvm_out",
        [("pio write", 0, 1, 0x61), ("pio write", 0, 1, 0x62), ("pio write", 0, 1, 0x63)],
        {"io": 0x636261},
    ),
    ("KVM", "kvm_mmio_read", [("mmio read", 8, 4, 0x28272625)], {"mmio": 0x88776655_28272625}),
    ("KVM", "kvm_mmio_write", [("mmio write", 8, 2, 0x2211), ("mmio write", 10, 1, 0x33)], {}),
    ("KVM", "kvm_rdmsr", [("msr read", 0, 8, FIRST)], {"msr": FIRST, "error": 0}),
    ("KVM", "kvm_wrmsr", [("msr write", 0, 8, VALUE)], {"msr": VALUE, "error": 0}),
    (
        "KVM",
        "kvm_failed",
        [("mmio read", 0x20, 4, 0x28272625)],
        {"rcx": 0x28272625, "r15": 0xF15, "rip": RIP + 2, "dirty": 1, "injected": 0},
    ),
    ("KVM", "kvm_failed_lock", [], {"rip": RIP, "dirty": 4, "injected": 1, "nr": 6, "has_error_code": 0}),
    (
        "KVM",
        "kvm_failed_without_bytes",
        [("mmio write", 0x20, 4, 0x11112222)],
        {"rip": RIP + 2, "dirty": 1},
    ),
    ("HYPERV", "hyperv_in", [("pio read", 0, 2, 0x2625)], {"rax": 0x11112625, "rip": RIP + 1}),
    ("HYPERV", "hyperv_out", [("pio write", 0, 4, 0x11112222)], {"rax": 0x11112222, "rip": RIP + 1}),
    (
        "HYPERV",
        "hyperv_rdmsr",
        [("msr read", 0, 8, FIRST)],
        {"msr-rax": 0x28272625, "msr-rdx": 0x2C2B2A29, "rip": RIP + 2},
    ),
    ("HYPERV", "hyperv_wrmsr", [("msr write", 0, 8, VALUE)], {"rip": RIP + 2}),
    ("XEN", "xen_in", [("pio read", 0, 2, 0x2625)], {"data": 0x2625, "state": 3, "dir": 1}),
    ("XEN", "xen_out", [("pio write", 0, 4, 0x55667788)], {"data": VALUE, "state": 3, "dir": 0}),
    ("XEN", "xen_read", [("mmio read", 8, 8, FIRST)], {"data": FIRST, "state": 3}),
    ("ACRN", "acrn_read_byte", [("mmio read", 8, 1, 0x25)], {"mmio": 0x25}),
    ("XEN", "xen_write", [("mmio write", 8, 1, 0x88)], {"data": VALUE, "state": 3}),
    (
        "XEN",
        "xen_outs",
        [("pio write", 0, 2, 0x0201), ("pio write", 0, 2, 0x0403), ("pio write", 0, 2, 0x0605)],
        {"data": POINTED, "state": 3},
    ),
    (
        "XEN",
        "xen_movs_down",
        [("mmio write", 8, 2, 0x0201), ("mmio write", 6, 2, 0x1E1D), ("mmio write", 4, 2, 0x1C1B)],
        {"data": POINTED, "state": 3},
    ),
    ("XEN", "xen_config", [("pci read", 4, 2, 0x2625)], {"data": 0x2625, "state": 3}),
    (
        "XEN",
        "xen_ring",
        [("pio write", 0, 1, 0x41), ("mmio write", 8, 8, VALUE), ("mmio write", 16, 2, 0x1234)],
        {"read_pointer": 1536, "write_pointer": 1536},
    ),
    ("ACRN", "acrn_in", [("pio read", 0, 2, 0x2625)], {"pio": 0x2625, "processed": 2}),
    ("ACRN", "acrn_out", [("pio write", 0, 2, 0x1234)], {"pio": 0xFFFF1234, "processed": 2}),
    ("ACRN", "acrn_read", [("mmio read", 8, 8, FIRST)], {"mmio": FIRST, "processed": 2}),
    ("ACRN", "acrn_write", [("mmio write", 8, 8, VALUE)], {"mmio": VALUE, "processed": 2}),
    ("ACRN", "acrn_config", [("pci read", 4, 4, 0x28272625)], {"pci": 0x28272625, "processed": 2}),
    ("ACRN", "acrn_config_write", [("pci write", 4, 2, 0x1234)], {"pci": 0xFFFF1234, "processed": 2}),
    ("BHYVE", "bhyve_in", [("pio read", 0, 2, 0x2625)], {"eax": 0x11112625}),
    ("BHYVE", "bhyve_out", [("pio write", 0, 1, 0x22)], {"eax": 0x11112222}),
    ("BHYVE", "bhyve_rdmsr", [("msr read", 0, 8, FIRST)], {"wval": FIRST}),
    ("BHYVE", "bhyve_wrmsr", [("msr write", 0, 8, VALUE)], {"wval": VALUE}),
]
BELOW = bytes(range(0x1B, 0x1F))
"""What guest memory has before POINTED; from there it counts up from 1."""
OUTSB, STORE = b"\xf3\x6e", b"\x89\x03"


def furnished(stage: Stage, code: bytes) -> Stage:
    """Guest memory has data, and code at RIP."""
    stage.memory.write(RIP, code)
    stage.memory.write(POINTED - len(BELOW), BELOW + bytes(range(1, 33)))
    return stage


@pytest.mark.parametrize(("source", "name", "accesses", "fields"), CASES, ids=[case[1] for case in CASES])
def test_access_reaches_the_device_and_its_value_comes_back(
    source: str,
    name: str,
    accesses: list[tuple[str, int, int, int]],
    fields: dict[str, int],
    foreign: Foreign,
    tell: Tell,
    on_stage: OnStage,
) -> None:
    """The device sees the access that the structure describes, and C finds the result in its own fields."""
    stage = furnished(on_stage(source), OUTSB if name == "svm_outs" else STORE)
    body = foreign(name)

    answer = stage.exit(body)

    assert isinstance(answer, Reply)
    assert accesses == stage.log.accesses
    assert len(body) == len(answer.body)
    told = tell(source.lower(), answer.body)
    assert fields == {field: told.get(field) for field in fields}
    valid = {field for field in told if field.startswith("valid")}
    assert valid == {field for field in fields if field.startswith("valid")}


@pytest.mark.parametrize(("source", "name", "rip"), [("HYPERV", "hyperv_in", 40), ("TD_L2", "td_l2_in", 264)])
def test_rip_wraps(source: str, name: str, rip: int, foreign: Foreign, tell: Tell, on_stage: OnStage) -> None:
    """Behind the last byte of the address space comes the first."""
    body = foreign(name)

    answer = on_stage(source).exit(body[:rip] + b"\xff" * 8 + body[rip + 8 :])

    assert isinstance(answer, Reply)
    assert 0 == tell(source.lower(), answer.body)["rip"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("GHCB", "ghcb_cpuid"),
        ("SVM", "svm_hlt"),
        ("TDVMCALL", "tdx_map_gpa"),
        ("KVM", "kvm_shutdown"),
        ("HYPERV", "hyperv_cpuid"),
        ("XEN", "xen_invalidate"),
        ("XEN", "xen_config_of_another_segment"),
        ("BHYVE", "bhyve_halt"),
    ],
)
def test_exit_of_another_kind_is_the_hypervisors(
    source: str, name: str, foreign: Foreign, on_stage: OnStage
) -> None:
    """What is neither an access nor an instruction is handed back, and no device hears of it."""
    stage = on_stage(source)

    assert Forward() == stage.exit(foreign(name))
    assert [] == stage.log.accesses


@pytest.mark.parametrize(
    ("source", "name", "code", "accesses"),
    [
        ("TD_L2", "td_l2_ept", STORE, [("mmio write", 0x20, 4, 0x11112222)]),
        ("TD_L2", "td_l2_ept_walk", STORE, [("mmio write", 0x20, 4, 0x11112222)]),
        ("TD_L2", "td_l2_outs", b"\x6e", [("pio write", 0, 1, 1)]),
        ("KVM", "kvm_failed_without_registers", STORE, [("mmio read", 0x20, 4, 0x28272625)]),
        ("HYPERV", "hyperv_memory", STORE, [("mmio write", 0x20, 4, 0x11112222)]),
        ("HYPERV", "hyperv_outs", b"", [("pio write", 0, 1, 1)]),
        ("BHYVE", "bhyve_emulate", b"", [("mmio write", 0x20, 4, 0x11112222)]),
        ("BHYVE", "bhyve_string", b"\x6e", [("pio write", 0, 1, 1)]),
    ],
)
def test_registers_that_the_structure_lacks_are_asked_for(
    source: str,
    name: str,
    code: bytes,
    accesses: list[tuple[str, int, int, int]],
    foreign: Foreign,
    on_stage: OnStage,
) -> None:
    """The first answer asks for GENERAL and touches nothing; with them the instruction is executed."""
    stage = furnished(on_stage(source), code)
    body = foreign(name)
    state = flat32(eax=0x11112222, ebx=MMIO + 0x20, edx=0x100, esi=POINTED)
    if source == "TD_L2":  # the state page has what counts
        body = body[: 128 + 0x30] + POINTED.to_bytes(8, "little") + body[128 + 0x38 :]
        state.gpr, state.rip = [0] * 16, 0

    first = stage.exit(body)
    silent = list(stage.log.accesses)
    answer = stage.supplied(body, state)

    assert (NeedRegisters(RegisterSet.GENERAL), []) == (first, silent)
    assert accesses == stage.log.accesses
    expected = Reply if source == "TD_L2" else Done
    assert isinstance(answer, expected)


@pytest.mark.parametrize(("source", "name"), [("SVM", "svm_npf_write"), ("KVM", "kvm_failed_without_bytes")])
def test_bytes_that_nobody_fetched_are_asked_for(
    source: str, name: str, foreign: Foreign, on_stage: OnStage
) -> None:
    """Where code is in memory that only the hypervisor reaches, the instruction's bytes are its to bring."""
    stage = on_stage(source, mapped=False)
    stage.add_remote()
    body = foreign(name)

    first = stage.exit(body)
    answer = stage.supplied(body, flat32(), code=STORE)

    assert isinstance(first, NeedBytes)
    assert RIP == first.address
    assert isinstance(answer, Reply)
    assert [("mmio write", 0x20, 4, 0x11112222)] == stage.log.accesses


@pytest.mark.parametrize(
    ("source", "name", "need", "accesses"),
    [
        (
            "GHCB",
            "ghcb_mmio_write_outside",
            NeedMemory(POINTED, 8),
            [("mmio write", 8, 8, 0x0807060504030201)],
        ),
        (
            "XEN",
            "xen_outs",
            NeedMemory(POINTED, 6),
            [("pio write", 0, 2, 0x0201), ("pio write", 0, 2, 0x0403), ("pio write", 0, 2, 0x0605)],
        ),
    ],
)
@pytest.mark.parametrize("mapped", [True, False])
def test_data_that_the_structure_points_to_are_fetched(
    source: str,
    name: str,
    need: NeedMemory,
    accesses: list[tuple[str, int, int, int]],
    mapped: bool,
    foreign: Foreign,
    on_stage: OnStage,
) -> None:
    """From guest memory where it is mapped; else the hypervisor is asked, before any access."""
    stage = on_stage(source, mapped=mapped)
    body = foreign(name)
    if mapped:
        furnished(stage, b"")
    else:
        assert need == stage.exit(body)
        assert [] == stage.log.accesses

    answer = stage.supplied(body, flat32(), ram=bytes(range(1, 9)))

    assert isinstance(answer, Reply)
    assert accesses == stage.log.accesses


@pytest.mark.parametrize(
    ("source", "name", "start", "data"),
    [
        ("GHCB", "ghcb_mmio_read_outside", POINTED, b"\x25\x26\x27\x28"),
        ("XEN", "xen_ins_down", POINTED - 4, b"\x6f\x70\x4a\x4b\x25\x26"),
    ],
)
@pytest.mark.parametrize("mapped", [True, False])
def test_data_go_where_the_structure_points(
    source: str, name: str, start: int, data: bytes, mapped: bool, foreign: Foreign, on_stage: OnStage
) -> None:
    """Into guest memory where it is mapped; else the hypervisor is told.  Descending ones end up in order."""
    stage = on_stage(source, mapped=mapped)

    answer = stage.exit(foreign(name))

    assert isinstance(answer, Reply)
    assert ([] if mapped else [(start, data)]) == answer.memory
    if mapped:
        assert data == stage.memory.read(start, len(data))


@pytest.mark.parametrize(
    ("source", "name"), [("SVM", "svm_npf_event"), ("TD_L2", "td_l2_event"), ("HYPERV", "hyperv_event")]
)
def test_event_delivery_is_refused(source: str, name: str, foreign: Foreign, on_stage: OnStage) -> None:
    """An access that came from delivering an event belongs to no instruction."""
    stage = on_stage(source)

    answer = stage.supplied(foreign(name), flat32(ebx=MMIO + 0x20))

    assert Refused(Refusal.EVENT_DELIVERY) == answer
    assert [] == stage.log.accesses


def test_vector_register_comes_behind_the_structure(foreign: Foreign, tell: Tell, on_stage: OnStage) -> None:
    """VMOVDQU ymm that KVM could not emulate: RIP is in the mapping, the register in a supplement."""
    stage = on_stage("KVM")

    answer = stage.exit(foreign("kvm_failed_vector"))

    assert isinstance(answer, Reply)
    assert answer.vectors is not None
    reads = [value for _, _, _, value in stage.log.accesses]
    assert [("mmio read", 0x20 + 8 * n, 8, value) for n, value in enumerate(reads)] == stage.log.accesses
    assert {0: sum(value << 64 * n for n, value in enumerate(reads))} == answer.vectors.zmm
    assert (RIP + 4, 1) == tuple(tell("kvm", answer.body)[name] for name in ("rip", "dirty"))


def test_full_ring_is_drained_in_parts(foreign: Foreign, tell: Tell, on_stage: OnStage) -> None:
    """511 writes take four exits, of 128 at most, in their order."""
    stage = on_stage("XEN")
    body, pointers = foreign("xen_ring_full"), list[int]()

    while not pointers or pointers[-1] < 511:
        answer = stage.exit(body)
        assert isinstance(answer, Reply)
        body = answer.body
        pointers.append(tell("xen", body)["read_pointer"])

    assert [128, 256, 384, 511] == pointers
    assert list(range(511)) == [value for *_, value in stage.log.accesses]


@pytest.mark.parametrize(
    ("source", "name", "at", "fields"),
    [
        ("GHCB", "ghcb_rdmsr", 0x308, {"info1": 1, "info2": 0x8000_0B0D}),
        ("SVM", "svm_rdmsr", 0x308, {"event": 0x8000_0B0D, "rip": RIP, "rdx": 0x100}),
        ("TDVMCALL", "tdx_rdmsr", 8 * 12, {"r10": 1 << 63}),
        ("KVM", "kvm_rdmsr", 44, {"error": 1}),
    ],
)
def test_msr_that_is_not_there(
    source: str,
    name: str,
    at: int,
    fields: dict[str, int],
    foreign: Foreign,
    tell: Tell,
    on_stage: OnStage,
) -> None:
    """The guest gets #GP(0), by the way that the source has for it."""
    body = foreign(name)

    answer = on_stage(source).exit(body[:at] + b"\x10\0\0\0" + body[at + 4 :])

    assert isinstance(answer, Reply)
    told = tell(source.lower(), answer.body)
    assert fields == {field: told[field] for field in fields}


def test_fault_of_an_instruction_without_room_is_told_as_it_is(foreign: Foreign, on_stage: OnStage) -> None:
    """A Hyper-V message cannot carry an exception: FAULT says which."""
    stage = on_stage("HYPERV")
    body = foreign("hyperv_memory").replace(b"\x89\x03\xf4", b"\xf0\x89\x03")

    answer = stage.supplied(body, flat32(ebx=MMIO + 0x20))

    assert isinstance(answer, Fault)
    assert 6 == answer.vector


@pytest.mark.parametrize(
    ("source", "name"),
    [("GHCB", "ghcb_in"), ("TDVMCALL", "tdx_in"), ("KVM", "kvm_in"), ("XEN", "xen_in"), ("ACRN", "acrn_in")],
)
def test_access_that_nobody_claims_may_be_forwarded(
    source: str, name: str, foreign: Foreign, on_stage: OnStage
) -> None:
    """A range that says `forward` gives the exit back, whoever laid it out."""
    body = foreign(name)
    stage = on_stage(source, unclaimed=(UnclaimedDescription(Space.PIO, 0, 1 << 16, Policy.FORWARD),))
    elsewhere = {"GHCB": 0x39A, "TDVMCALL": 0x70, "KVM": 34, "XEN": 0, "ACRN": 72}[source]
    moved = bytearray(body)
    moved[elsewhere + 1] = 0x77

    assert Forward() == stage.exit(bytes(moved))
    assert [] == stage.log.accesses
