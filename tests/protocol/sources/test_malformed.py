"""What guests and hypervisors get wrong: the reply that the source has for it, or an error with the field."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mmiod.protocol.exit import NUMBERS, Reply, SourceExit
from mmiod.protocol.sources import SOURCES, ghcb, kvm, svm, tdvmcall
from mmiod.values import (
    READ,
    DecodedExit,
    Delta,
    Done,
    Fault,
    NeedMemory,
    RawExit,
    Segment,
    Space,
    VectorDelta,
)
from tests.protocol.messages import refusal
from tests.protocol.sources.conftest import Foreign, Tell
from tests.protocol.sources.stage import POINTED, Stage, flat32

pytestmark = [pytest.mark.needs("gcc"), pytest.mark.needs("xen")]
OnStage = Callable[..., Stage]

INFO1, INFO2, SCRATCH, USAGE, BITMAP, CODE = 0x398, 0x3A0, 0x3A8, 0xFFC, 0x3F0, 0x390
"""Of a GHCB (AMD 56421, table 3)."""


def edited(body: bytes, at: int, value: int, size: int) -> bytes:
    """A structure with another number in it."""
    return body[:at] + value.to_bytes(size, "little") + body[at + size :]


def without(body: bytes, field: int) -> bytes:
    """A GHCB that does not call this field valid."""
    bits = int.from_bytes(body[BITMAP : BITMAP + 16], "little") & ~(1 << field // 8)
    return edited(body, BITMAP, bits, 16)


# --- replies that the guest gets -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "at", "value", "size", "reason"),
    [
        ("ghcb_out", USAGE, 1, 4, 2),
        ("ghcb_outs", SCRATCH, 0x6000 + 0x7FE, 8, 3),  # before the shared buffer
        ("ghcb_outs", SCRATCH, 0x6000 + 0xFEB, 8, 3),  # 6 bytes end one past it
        ("ghcb_outs", INFO2, 1017, 8, 3),  # 2034 bytes
        ("ghcb_outs", INFO2, (1 << 64) - 1, 8, 3),
        ("ghcb_mmio_write_outside", SCRATCH, (1 << 64) - 7, 8, 3),
        ("ghcb_outs_outside", INFO2, 8193, 8, 3),  # 16 KiB and 2
        ("ghcb_outs", INFO2, 0, 8, 5),
        ("ghcb_out", INFO1, 0x100_0200, 8, 5),  # no size
        ("ghcb_out", INFO1, 0x100_0230, 8, 5),  # two sizes
        ("ghcb_mmio_read", INFO2, 0, 8, 5),
        ("ghcb_mmio_read", INFO2, 9, 8, 5),
        ("ghcb_rdmsr", INFO1, 2, 8, 5),
        ("ghcb_out", CODE, 0x8000_0000, 8, 6),
        ("ghcb_out", CODE, 0x400, 8, 6),
    ],
)
def test_malformed_request_has_its_reason(
    name: str,
    at: int,
    value: int,
    size: int,
    reason: int,
    foreign: Foreign,
    tell: Tell,
    on_stage: OnStage,
) -> None:
    """Usage 2, scratch area 3, invalid input 5, invalid event 6; no device hears of it."""
    stage = on_stage("GHCB")

    answer = stage.exit(edited(foreign(name), at, value, size))

    assert isinstance(answer, Reply)
    told = tell("ghcb", answer.body)
    assert (2, reason, 1, 1) == (told["info1"], told["info2"], told["valid-info1"], told["valid-info2"])
    assert [] == stage.log.accesses


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name in ("ghcb_out", "ghcb_ins", "ghcb_wrmsr") for field in (CODE, INFO1, INFO2)]
    + [("ghcb_out", 0x1F8), ("ghcb_outs", SCRATCH), ("ghcb_ins", SCRATCH)]
    + [("ghcb_mmio_read", SCRATCH), ("ghcb_mmio_write", SCRATCH), ("ghcb_rdmsr", 0x308)]
    + [("ghcb_wrmsr", field) for field in (0x1F8, 0x308, 0x310)],
)
def test_field_that_is_not_valid_is_missing_input(
    name: str, field: int, foreign: Foreign, tell: Tell, on_stage: OnStage
) -> None:
    """A field that the event needs and the bitmap does not have is reason 4."""
    stage = on_stage("GHCB")

    answer = stage.exit(without(foreign(name), field))

    assert isinstance(answer, Reply)
    told = tell("ghcb", answer.body)
    assert (2, 4) == (told["info1"], told["info2"])
    assert [] == stage.log.accesses


@pytest.mark.parametrize(
    ("name", "field"), [("ghcb_in", 0x1F8), ("ghcb_rdmsr", 0x1F8), ("ghcb_out", SCRATCH)]
)
def test_input_that_the_event_does_not_need(
    name: str, field: int, foreign: Foreign, on_stage: OnStage
) -> None:
    """A read needs no RAX, and without string no scratch area."""
    stage = on_stage("GHCB")

    stage.exit(without(foreign(name), field))

    assert 1 == len(stage.log.accesses)


@pytest.mark.parametrize(
    ("name", "edit", "need"),
    [
        ("ghcb_outs_outside", (INFO2, 8192), NeedMemory(POINTED, 0x4000)),
        ("ghcb_mmio_write_outside", (SCRATCH, (1 << 64) - 8), NeedMemory((1 << 64) - 8, 8)),
    ],
)
def test_largest_scratch_area_outside(
    name: str, edit: tuple[int, int], need: NeedMemory, foreign: Foreign, on_stage: OnStage
) -> None:
    """16 KiB, or up to the last address, may be used: the hypervisor is asked for it."""
    assert need == on_stage("GHCB", mapped=False).exit(edited(foreign(name), *edit, 8))


def test_string_needs_no_repetition(foreign: Foreign, on_stage: OnStage) -> None:
    """OUTSW without REP goes through the scratch area too."""
    stage = on_stage("GHCB")

    stage.exit(edited(foreign("ghcb_outs"), INFO1, 0x100_0E24, 8))

    assert ("pio write", 0, 2, 0x0201) == stage.log.accesses[0]


def test_last_byte_of_the_buffer_is_usable(foreign: Foreign, on_stage: OnStage) -> None:
    """Six bytes that end with the shared buffer fit."""
    stage = on_stage("GHCB")

    answer = stage.exit(edited(foreign("ghcb_outs"), SCRATCH, 0x6000 + 0xFEA, 8))

    assert isinstance(answer, Reply)
    assert 3 == len(stage.log.accesses)


@pytest.mark.parametrize(
    ("fault", "info2"),
    [(Fault(13, 0), 0x8000_0B0D), (Fault(13, 0x18), 0x18_8000_0B0D), (Fault(6), 0x8000_0306)],
)
def test_exceptions_that_a_guest_takes(fault: Fault, info2: int, foreign: Foreign, tell: Tell) -> None:
    """#GP and #UD are injected through the page."""
    body = foreign("ghcb_rdmsr")
    arrived = SourceExit(0, 1, body)
    exit_ = DecodedExit(0, 1, Space.MSR, READ, 0, 8)

    answer = ghcb.answer(arrived, exit_, fault)

    assert isinstance(answer, Reply)
    told = tell("ghcb", answer.body)
    assert (1, info2) == (told["info1"], told["info2"])


def test_other_exceptions_are_not_for_the_guest(foreign: Foreign) -> None:
    """Linux takes no #PF from a reply: the hypervisor decides."""
    arrived = SourceExit(0, 1, foreign("ghcb_rdmsr"))
    fault = Fault(14, 0, 0)

    assert fault == ghcb.answer(arrived, DecodedExit(0, 1, Space.MSR, READ, 0, 8), fault)


@pytest.mark.parametrize(
    ("name", "register", "value"),
    [
        ("tdx_in", 12, 8),
        ("tdx_in", 12, 0),
        ("tdx_in", 13, 2),
        ("tdx_in", 14, 0x10000),
        ("tdx_read", 12, 3),
        ("tdx_read", 12, 16),
        ("tdx_write", 13, 1 << 63),
        ("tdx_rdmsr", 12, 1 << 32),
    ],
)
def test_call_with_an_invalid_operand(
    name: str, register: int, value: int, foreign: Foreign, tell: Tell, on_stage: OnStage
) -> None:
    """Size, direction, port and MSR are checked."""
    stage = on_stage("TDVMCALL")

    answer = stage.exit(edited(foreign(name), 8 * register, value, 8))

    assert isinstance(answer, Reply)
    assert 1 << 63 == tell("tdvmcall", answer.body)["r10"]
    assert [] == stage.log.accesses


def test_fault_is_an_invalid_operand(foreign: Foreign, tell: Tell) -> None:
    """A call has no other way to fail."""
    exit_ = DecodedExit(0, 1, Space.MSR, READ, 0, 8)

    answer = tdvmcall.answer(SourceExit(0, 1, foreign("tdx_rdmsr")), exit_, Fault(13, 0))

    assert isinstance(answer, Reply)
    assert 1 << 63 == tell("tdvmcall", answer.body)["r10"]


def test_msr_that_faults_makes_kvm_inject(foreign: Foreign, tell: Tell) -> None:
    """The error of an MSR exit is KVM's #GP."""
    exit_ = DecodedExit(0, 1, Space.MSR, READ, 0, 8)
    body = edited(foreign("kvm_rdmsr"), 32, 0, 1)

    answer = kvm.answer(SourceExit(0, 1, body), exit_, Fault(13, 0))

    assert isinstance(answer, Reply)
    assert 1 == tell("kvm", answer.body)["error"]


@pytest.mark.parametrize(
    "delta", [Delta(1, 2, debug=1), Delta(1, 2, shadow=True), Delta(1, 2, segments={0: Segment()})]
)
@pytest.mark.parametrize(
    ("source", "name"), [("SVM", "svm_npf_read"), ("KVM", "kvm_failed"), ("TD_L2", "td_l2_ept")]
)
def test_done_is_told_as_it_is(source: str, name: str, delta: Delta, foreign: Foreign) -> None:
    """A loaded segment, a #DB that is due, an interrupt shadow: DONE tells them."""
    module = SOURCES[NUMBERS["source"][source]]
    exit_ = RawExit(0, 1, flat32())

    assert Done(delta) == module.answer(SourceExit(0, 1, foreign(name)), exit_, Done(delta))


@pytest.mark.parametrize(
    ("source", "name"), [("SVM", "svm_npf_read"), ("KVM", "kvm_failed"), ("TD_L2", "td_l2_ept")]
)
def test_memory_and_vectors_come_behind_the_structure(source: str, name: str, foreign: Foreign) -> None:
    """A reply has what DONE would have in its supplements."""
    module = SOURCES[NUMBERS["source"][source]]
    delta = Delta(1, 2, {}, [(POINTED, b"x")], VectorDelta(k={1: 2}))

    answer = module.answer(SourceExit(0, 1, foreign(name)), RawExit(0, 1, flat32()), Done(delta))

    assert isinstance(answer, Reply)
    assert ([(POINTED, b"x")], VectorDelta(k={1: 2})) == (answer.memory, answer.vectors)


def test_kvm_without_events_has_no_place_for_an_exception(foreign: Foreign) -> None:
    """kvm_valid_regs says that KVM would not take the exception."""
    body = edited(foreign("kvm_failed"), 288, 3, 8)

    assert Fault(6) == kvm.answer(SourceExit(0, 1, body), RawExit(0, 1, flat32()), Fault(6))


def test_interrupt_shadow_ends_with_the_instruction(foreign: Foreign, tell: Tell) -> None:
    """KVM is told, if it takes events."""
    body = foreign("kvm_failed_in_shadow")
    for valid, expected in ((7, (0, 1, 5)), (3, (2, 0, 1))):
        arrived = SourceExit(0, 1, edited(body, 288, valid, 8))
        answer = kvm.answer(arrived, RawExit(0, 1, flat32()), Done(Delta(1, 2)))
        assert isinstance(answer, Reply)
        told = tell("kvm", answer.body)
        assert expected == (told["shadow"], told["shadow_valid"], told["dirty"])


def test_page_fault_through_kvm(foreign: Foreign, tell: Tell) -> None:
    """KVM takes error code and CR2, with what a REP had done before."""
    fault = Fault(14, 2, 0x5000, Delta(0x1000, 2, {1: 7}))

    answer = kvm.answer(SourceExit(0, 1, foreign("kvm_failed")), RawExit(0, 1, flat32()), fault)

    assert isinstance(answer, Reply)
    told = tell("kvm", answer.body)
    names = ("injected", "nr", "has_error_code", "error_code", "cr2", "rcx", "dirty")
    assert (1, 14, 1, 2, 0x5000, 7, 7) == tuple(told[name] for name in names)


def test_partial_rep_before_a_fault(foreign: Foreign, tell: Tell) -> None:
    """Registers of the iterations done, CR2 and the exception, in one answer."""
    fault = Fault(14, 2, 0x5000, Delta(0x1000, 2, {1: 7, 6: 9}))

    answer = svm.answer(SourceExit(0, 1, foreign("svm_outs")), RawExit(0, 1, flat32()), fault)

    assert isinstance(answer, Reply)
    told = tell("svm", answer.body)
    assert (7, 9, 0x2_8000_0B0E) == (told["rcx"], told["rsi"], told["event"])
    assert 0x5000 == int.from_bytes(answer.body[0x240:0x248], "little")


# --- what the hypervisor got wrong -------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name", "at", "value", "size", "field"),
    [
        ("SVM", "svm_in", 0x390, 0x1000001, 8, "vmsa.exitinfo1"),
        ("SVM", "svm_rdmsr", 0x390, 2, 8, "vmsa.exitinfo1"),
        ("SVM", "svm_npf_read", 0xCB, 4, 1, "vmsa.cpl"),
        ("SVM", "svm_npf_read", 0x1000, 16, 1, "vmcb_code.count"),
        ("TD_L2", "td_l2_in", 4, 0x1120, 4, "td_l2.rax"),
        ("TD_L2", "td_l2_in", 8, 2, 1, "td_l2.rcx"),
        ("KVM", "kvm_in", 32, 2, 1, "kvm_run.io.direction"),
        ("KVM", "kvm_in", 33, 8, 1, "kvm_run.io.size"),
        ("KVM", "kvm_in", 36, 0, 4, "kvm_run.io.count"),
        ("KVM", "kvm_in", 36, 1 << 20, 4, "kvm_run.io.count"),
        ("KVM", "kvm_in", 40, 8187, 8, "kvm_run.io.data_offset"),
        ("KVM", "kvm_in", 40, (1 << 64) - 1, 8, "kvm_run.io.data_offset"),
        ("KVM", "kvm_mmio_read", 48, 0, 4, "kvm_run.mmio.len"),
        ("KVM", "kvm_mmio_read", 48, 9, 4, "kvm_run.mmio.len"),
        ("KVM", "kvm_mmio_read", 52, 2, 1, "kvm_run.mmio.is_write"),
        ("KVM", "kvm_failed", 48, 16, 1, "kvm_run.emulation_failure.insn_size"),
        ("HYPERV", "hyperv_in", 58, 3, 1, "hv_io_port_intercept.access_info"),
        ("HYPERV", "hyperv_memory", 21, 3, 1, "hv_message.access_type"),
        ("HYPERV", "hyperv_in", 21, 2, 1, "hv_message.access_type"),
        ("HYPERV", "hyperv_rdmsr", 21, 2, 1, "hv_message.access_type"),
        ("HYPERV", "hyperv_memory", 60, 17, 1, "hv_memory_intercept.instruction_byte_count"),
        ("HYPERV", "hyperv_rdmsr", 20, 0xF0, 1, "hv_message.instruction_length"),
        ("XEN", "xen_in", 20, 3, 4, "ioreq.size"),
        ("XEN", "xen_in", 16, 0, 4, "ioreq.count"),
        ("XEN", "xen_in", 16, 1 << 16, 4, "ioreq.count"),
        ("XEN", "xen_in", 0, 0x10000, 8, "ioreq.addr"),
        ("XEN", "xen_config", 0, 0x1000, 8, "ioreq.addr"),
        ("XEN", "xen_movs_down", 8, 3, 8, "ioreq.data"),
        ("XEN", "xen_ins_down", 8, 3, 8, "ioreq.data"),
        ("XEN", "xen_outs", 8, (1 << 64) - 5, 8, "ioreq.data"),
        ("XEN", "xen_ring", 4, 2048, 4, "buffered_iopage.write_pointer"),
        ("XEN", "xen_ring", 4, 1534, 4, "buffered_iopage.write_pointer"),
        ("XEN", "xen_ring", 8 + 510 * 8, 2, 1, "buf_ioreq.type"),
        ("XEN", "xen_ring", 8 + 510 * 8 + 1, 2, 1, "buf_ioreq.dir"),
        ("XEN", "xen_ring", 8 + 510 * 8 + 2, 0x1000, 2, "buf_ioreq.addr"),  # 0x10000
        ("ACRN", "acrn_in", 64, 2, 4, "acrn_pio_request.direction"),
        ("ACRN", "acrn_in", 80, 5, 8, "acrn_pio_request.size"),
        ("ACRN", "acrn_in", 72, 0x10000, 8, "acrn_pio_request.address"),
        ("ACRN", "acrn_read", 80, 0, 8, "acrn_mmio_request.size"),
        ("ACRN", "acrn_read", 80, 9, 8, "acrn_mmio_request.size"),
        ("ACRN", "acrn_config", 96, 32, 4, "acrn_pci_request.dev"),
        ("ACRN", "acrn_config", 104, 4096, 4, "acrn_pci_request.reg"),
        ("BHYVE", "bhyve_in", 16, 0x0B, 2, "vm_exit.inout.bits"),
        ("BHYVE", "bhyve_emulate", 87, 16, 1, "vm_exit.inst_emul.num_valid"),
    ],
)
def test_field_that_cannot_be_is_named(
    source: str,
    name: str,
    at: int,
    value: int,
    size: int,
    field: str,
    foreign: Foreign,
    on_stage: OnStage,
) -> None:
    """What only a broken shim sends is a protocol error, and it names the exit's sequence."""
    stage = on_stage(source)
    body = edited(foreign(name), at, value, size)

    error = refusal(lambda: stage.exit(body, state=flat32()))

    assert (field, 1, True) == (error.name, error.subject, error.fatal)
    assert [] == stage.log.accesses


def test_registers_are_there_as_a_whole(foreign: Foreign, on_stage: OnStage) -> None:
    """What an answer may have to write is checked before the instruction is executed."""
    stage = on_stage("KVM")
    body = foreign("kvm_failed_lock")

    assert isinstance(stage.exit(body[:824]), Reply)
    error = refusal(lambda: stage.exit(body[:823]))

    assert ("kvm_run", 823) == (error.name, error.value)
