"""What a structure tells of an instruction: bytes, address, intent, registers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mmiod.protocol.exit import SourceExit
from mmiod.values import Intent, RawExit, Segment, VcpuState
from tests.protocol.sources.conftest import Foreign
from tests.protocol.sources.stage import MMIO, Stage, flat32

pytestmark = [pytest.mark.needs("gcc"), pytest.mark.needs("xen")]

AT = MMIO + 0x20
READ, WRITE, EXECUTE = Intent
FINAL = 1 << 32
"""Of a nested page fault's exitinfo1."""
CODE = bytes(range(0x40, 0x50))

Edit = tuple[int, int | bytes]


def edited(body: bytes, *edits: Edit) -> bytes:
    """A structure with other u64s, or bytes, in it."""
    data = bytearray(body)
    for at, value in edits:
        new = value if isinstance(value, bytes) else value.to_bytes(8, "little")
        data[at : at + len(new)] = new
    return bytes(data)


def instruction(
    foreign: Foreign, on_stage: Callable[..., Stage], source: str, name: str, *edits: Edit
) -> RawExit:
    """What the source reads."""
    arrived = SourceExit(2, 9, edited(foreign(name), *edits), state=flat32())
    found = on_stage(source).read(arrived)
    assert isinstance(found, RawExit)
    assert (2, 9) == (found.vcpu, found.sequence)
    return found


@pytest.mark.parametrize(
    ("source", "name", "edits", "hints"),
    [
        ("SVM", "svm_npf_read", [], (AT, None, READ)),
        ("SVM", "svm_npf_read", [(0x390, FINAL | 2)], (AT, None, WRITE)),
        ("SVM", "svm_npf_read", [(0x390, FINAL | 16)], (AT, None, EXECUTE)),
        ("SVM", "svm_npf_walk", [], (None, None, None)),
        ("SVM", "svm_outs", [], (None, None, None)),
        ("TD_L2", "td_l2_ept", [(16, 0x7000)], (AT, 0x7000, WRITE)),
        ("TD_L2", "td_l2_ept", [(8, 0x181)], (AT, AT, READ)),
        ("TD_L2", "td_l2_ept", [(8, 0x184)], (AT, AT, EXECUTE)),
        ("TD_L2", "td_l2_ept", [(8, 0x102)], (None, None, None)),
        ("TD_L2", "td_l2_ept_walk", [], (None, None, None)),
        ("TD_L2", "td_l2_outs", [], (None, None, None)),
        ("KVM", "kvm_failed", [], (None, None, None)),
        ("HYPERV", "hyperv_memory", [(64, 0x7000)], (AT, 0x7000, WRITE)),
        ("HYPERV", "hyperv_memory", [(21, b"\0")], (AT, AT, READ)),
        ("HYPERV", "hyperv_memory", [(21, b"\2")], (AT, AT, EXECUTE)),
        ("HYPERV", "hyperv_memory", [(61, b"\2")], (AT, None, WRITE)),
        ("HYPERV", "hyperv_outs", [], (None, None, None)),
        ("HYPERV", "hyperv_in", [(20, b"\xf0")], (None, None, None)),  # a port without instruction length
        ("BHYVE", "bhyve_emulate", [(24, 0x7000)], (AT, 0x7000, None)),
        ("BHYVE", "bhyve_emulate", [(24, (1 << 64) - 1)], (AT, None, None)),
        ("BHYVE", "bhyve_in", [(16, b"\x12")], (None, None, None)),  # OUTSW, as INOUT tells it
    ],
)
def test_address_and_intent(
    source: str,
    name: str,
    edits: list[Edit],
    hints: tuple[int | None, int | None, Intent | None],
    foreign: Foreign,
    on_stage: Callable[..., Stage],
) -> None:
    """As far as the hardware told them, and not those of a page walk."""
    found = instruction(foreign, on_stage, source, name, *edits)

    assert hints == (found.gpa, found.gva, found.intent)
    assert not found.event_delivery


@pytest.mark.parametrize(
    ("source", "name", "edits", "code"),
    [
        ("SVM", "svm_npf_read", [(0x1000, b"\x0f" + CODE)], CODE[:15]),
        ("SVM", "svm_npf_read", [(0x1000, b"\0" + CODE)], b""),
        ("SVM", "svm_npf_write", [], b""),
        ("SVM", "svm_outs", [], b""),
        ("TD_L2", "td_l2_ept", [], b""),
        ("KVM", "kvm_failed", [(49, CODE)], CODE[:15]),
        ("KVM", "kvm_failed", [(48, b"\5" + CODE)], CODE[:5]),
        ("KVM", "kvm_failed_without_bytes", [(48, b"\x0f" + CODE)], b""),
        ("HYPERV", "hyperv_memory", [(80, CODE)], CODE[:15]),
        ("HYPERV", "hyperv_outs", [(59, b"\x0f"), (72, CODE)], CODE[:15]),
        ("HYPERV", "hyperv_memory", [(60, b"\0")], b""),
        ("BHYVE", "bhyve_emulate", [(72, CODE[:15] + b"\x0f")], CODE[:15]),
        ("BHYVE", "bhyve_string", [], b""),
    ],
)
def test_bytes_of_the_instruction(
    source: str, name: str, edits: list[Edit], code: bytes, foreign: Foreign, on_stage: Callable[..., Stage]
) -> None:
    """As many as the structure says, 15 at most."""
    assert code == instruction(foreign, on_stage, source, name, *edits).code


def test_supplied_bytes_count_instead(foreign: Foreign, on_stage: Callable[..., Stage]) -> None:
    """What came as supplement CODE is the instruction, whatever the structure has."""
    found = on_stage("SVM").read(SourceExit(0, 1, foreign("svm_npf_read"), CODE[:3]))

    assert isinstance(found, RawExit)
    assert CODE[:3] == found.code


def numbered(n: int, attributes: int) -> Segment:
    """As foreign.c numbers them."""
    return Segment(0x70000 + n, 0x1000 + n, 0x100 + n, attributes)


def test_registers_of_a_vmsa(foreign: Foreign, on_stage: Callable[..., Stage]) -> None:
    """Each register is where the manual puts it, and attributes are unpacked."""
    found = instruction(foreign, on_stage, "SVM", "svm_state").state

    segments = [numbered(n, 0xA090 + n) for n in range(10)]
    assert found == VcpuState(
        gpr=[0x600 + n for n in range(16)],
        rip=0x500, rflags=0x501, cr0=0x502, cr2=0x503, cr3=0x504, cr4=0x505, efer=0x506, xcr0=0x507,
        dr6=0x508, dr7=0x509, cpl=3,
        segments=segments[:6], gdtr=segments[6], ldtr=segments[7], idtr=segments[8], tr=segments[9],
    )  # fmt: skip


def test_registers_that_kvm_has_synced(foreign: Foreign, on_stage: Callable[..., Stage]) -> None:
    """Each register is where the headers put it, segments are put together, and CPL is DPL of SS."""
    found = instruction(foreign, on_stage, "KVM", "kvm_state").state

    segments = [
        numbered(n, 0x20E0 | n | (n & 1) << 15 | (n >> 1 & 1) << 14 | (n >> 3) << 12) for n in range(10)
    ]
    assert found == VcpuState(
        gpr=[0x600 + n for n in range(16)],
        rip=0x500, rflags=0x501, cr0=0x502, cr2=0x503, cr3=0x504, cr4=0x505, efer=0x506, xcr0=0xE7,
        cpl=3,
        segments=segments[:6], ldtr=segments[7], tr=segments[9],
        gdtr=Segment(0x70006, 0x1006), idtr=Segment(0x70008, 0x1008),
    )  # fmt: skip


def test_registers_of_l2(foreign: Foreign, on_stage: Callable[..., Stage]) -> None:
    """General registers, RIP, RFLAGS and CPL are those of the state page; the rest was supplied."""
    page = b"".join((0x600 + n).to_bytes(8, "little") for n in range(16))
    edits: list[Edit] = [(128, page), (128 + 0x80, 0x501), (128 + 0x88, 0x500), (8 * 12, 3)]
    found = instruction(foreign, on_stage, "TD_L2", "td_l2_ept", *edits).state

    expected = flat32()
    expected.gpr, expected.rip, expected.rflags, expected.cpl = (
        [0x600 + n for n in range(16)],
        0x500,
        0x501,
        3,
    )
    assert found == expected


@pytest.mark.parametrize(
    ("source", "name", "edits"),
    [("HYPERV", "hyperv_memory", [(40, 0x500), (48, 0x501)]), ("BHYVE", "bhyve_emulate", [(8, 0x500)])],
)
def test_rip_is_the_structures(
    source: str, name: str, edits: list[Edit], foreign: Foreign, on_stage: Callable[..., Stage]
) -> None:
    """Where a structure has RIP (and RFLAGS), the supplement's do not count."""
    found = instruction(foreign, on_stage, source, name, *edits).state

    assert 0x500 == found.rip
    assert (0x501 if source == "HYPERV" else 2) == found.rflags
