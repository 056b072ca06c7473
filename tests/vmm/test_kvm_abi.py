from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from mmiod.vmm import kvm_abi as abi

pytestmark = pytest.mark.needs("gcc")

SIZES = {
    "REGS_SIZE": "kvm_regs",
    "SREGS_SIZE": "kvm_sregs",
    "EVENTS_SIZE": "kvm_vcpu_events",
    "DEBUGREGS_SIZE": "kvm_debugregs",
    "FPU_SIZE": "kvm_fpu",
    "XCRS_SIZE": "kvm_xcrs",
    "ENABLE_CAP_SIZE": "kvm_enable_cap",
    "IRQCHIP_SIZE": "kvm_irqchip",
    "LAPIC_SIZE": "kvm_lapic_state",
    "MP_STATE_SIZE": "kvm_mp_state",
    "XSAVE_SIZE": "kvm_xsave",
}
STRUCTS = {
    "RUN_IO": "kvm_run: io.direction io.size io.port io.count io.data_offset",
    "RUN_MMIO": "kvm_run: mmio.phys_addr mmio.data mmio.len mmio.is_write",
    "RUN_FAILURE": (
        "kvm_run: emulation_failure.suberror emulation_failure.ndata emulation_failure.flags"
        " emulation_failure.insn_size emulation_failure.insn_bytes"
    ),
    "RUN_ENTRY_FAILURE": "kvm_run: fail_entry.hardware_entry_failure_reason",
    "IRQCHIP": "kvm_irqchip: chip_id",
    "IRQ_LEVEL": "kvm_irq_level: irq level",
    "IRQFD": "kvm_irqfd: fd gsi flags resamplefd",
    "MSI": "kvm_msi: address_lo address_hi data flags",
    "IOEVENTFD": "kvm_ioeventfd: datamatch addr len fd flags",
    "MEMORY_REGION": ("kvm_userspace_memory_region: slot flags guest_phys_addr memory_size userspace_addr"),
    "REGS": "kvm_regs: rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags",
    "SEGMENT": "kvm_segment: base limit selector type present dpl db s l g avl unusable",
    "TABLE": "kvm_dtable: base limit",
    "DEBUGREGS": "kvm_debugregs: db[0] db[1] db[2] db[3] dr6 dr7",
    "XCR": "kvm_xcrs: nr_xcrs flags xcrs[0].xcr xcrs[0].reserved xcrs[0].value",
    "EVENTS_EXCEPTION": (
        "kvm_vcpu_events: exception.injected exception.nr exception.has_error_code"
        " exception.pending exception.error_code"
    ),
    "TRANSLATION": "kvm_translation: linear_address physical_address valid",
    "ENABLE_CAP": "kvm_enable_cap: cap flags args[0]",
    "CPUID_HEAD": "kvm_cpuid2: nent padding",
    "CPUID_ENTRY": "kvm_cpuid_entry2: function index flags eax ebx ecx edx",
    "SIGNAL_MASK": "kvm_signal_mask: len sigset[0]",
}
OFFSETS = {
    "RUN_REQUEST_INTERRUPT_WINDOW": "kvm_run, request_interrupt_window",
    "RUN_IMMEDIATE_EXIT": "kvm_run, immediate_exit",
    "RUN_EXIT_REASON": "kvm_run, exit_reason",
    "RUN_READY_FOR_INTERRUPT_INJECTION": "kvm_run, ready_for_interrupt_injection",
    "RUN_IF_FLAG": "kvm_run, if_flag",
    "RUN_MMIO_DATA": "kvm_run, mmio.data",
    "RUN_VALID_REGS": "kvm_run, kvm_valid_regs",
    "RUN_DIRTY_REGS": "kvm_run, kvm_dirty_regs",
    "RUN_REGS": "kvm_run, s.regs.regs",
    "RUN_SREGS": "kvm_run, s.regs.sregs",
    "RUN_EVENTS": "kvm_run, s.regs.events",
    "SREGS_SEGMENTS": "kvm_sregs, cs",
    "SREGS_TABLES": "kvm_sregs, gdt",
    "SREGS_CONTROL_AT": "kvm_sregs, cr0",
    "SREGS_CR2": "kvm_sregs, cr2",
    "EVENTS_SHADOW": "kvm_vcpu_events, interrupt.shadow",
    "EVENTS_FLAGS": "kvm_vcpu_events, flags",
}
ORDER = {
    "SEGMENT": "kvm_sregs: cs ds es fs gs ss tr ldt",
    "TABLE": "kvm_sregs: gdt idt",
    "SREGS_CONTROL": "kvm_sregs: cr0 cr2 cr3 cr4 cr8 efer apic_base",
}
"""Arrays that are read member by member from their beginning."""


def numbers() -> list[str]:
    """Constants that have the name of a macro."""
    return [name for name in vars(abi) if name.startswith("KVM_")]


def places(layout: struct.Struct) -> list[int]:
    """Where each field of a Struct begins."""
    found, code = list[int](), layout.format.removeprefix("<")
    position, count = 0, ""
    for letter in code.replace(" ", ""):
        if letter.isdigit():
            count += letter
            continue
        times, size = int(count or 1), struct.calcsize(letter)
        if letter == "s":
            found.append(position)
        elif letter != "x":
            found += [position + size * number for number in range(times)]
        position, count = position + size * times, ""
    return found


def from_headers(directory: Path, expressions: list[str]) -> list[int]:
    """What C expressions are, by the headers of this system."""
    lines = "\n".join(f'printf("%llu\\n", (unsigned long long)({text}));' for text in expressions)
    source = directory / "abi.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\nint main(void) {\n" + lines + "}\n"
    )
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", directory / "abi", source], check=True)
    printed = subprocess.run([directory / "abi"], check=True, capture_output=True, text=True).stdout
    return [int(line) for line in printed.split()]


def test_numbers_are_the_kernels(tmp_path: Path) -> None:
    """ioctls, capabilities, exit reasons and flags have the values of <linux/kvm.h>."""
    assert from_headers(tmp_path, numbers()) == [getattr(abi, name) for name in numbers()]


def test_sizes_are_the_kernels(tmp_path: Path) -> None:
    """So are the sizes of structures that travel whole."""
    expected = from_headers(tmp_path, [f"sizeof(struct {name})" for name in SIZES.values()])
    assert expected == [getattr(abi, name) for name in SIZES]


def test_offsets_are_the_kernels(tmp_path: Path) -> None:
    """So are single offsets."""
    expected = from_headers(tmp_path, [f"offsetof(struct {place})" for place in OFFSETS.values()])
    assert expected == [getattr(abi, name) for name in OFFSETS]


@pytest.mark.parametrize("name", STRUCTS)
def test_structures_are_the_kernels(name: str, tmp_path: Path) -> None:
    """Each field of a Struct lies where the kernel has the member of its name."""
    structure, _, members = STRUCTS[name].partition(":")
    offsets = [f"offsetof(struct {structure}, {member})" for member in members.split()]
    assert from_headers(tmp_path, offsets) == places(getattr(abi, name))


@pytest.mark.parametrize("name", ORDER)
def test_members_follow_each_other_in_the_kernels_order(name: str, tmp_path: Path) -> None:
    """Segments, tables and control registers come in the order that is read."""
    structure, _, members = ORDER[name].partition(":")
    names = members.split()
    offsets = [
        f"offsetof(struct {structure}, {name}) - offsetof(struct {structure}, {names[0]})" for name in names
    ]
    layout = getattr(abi, name)
    step = layout.size if name != "SREGS_CONTROL" else 8
    assert from_headers(tmp_path, offsets) == [number * step for number in range(len(names))]


@pytest.mark.parametrize(
    "name",
    [
        "SEGMENT",
        "TABLE",
        "MEMORY_REGION",
        "TRANSLATION",
        "CPUID_ENTRY",
        "CPUID_HEAD",
        "IRQCHIP",
        "IRQ_LEVEL",
        "IRQFD",
        "MSI",
    ],
)
def test_array_elements_and_arguments_have_the_kernels_size(name: str, tmp_path: Path) -> None:
    """What is packed whole has no byte too few."""
    structure = STRUCTS[name].partition(":")[0]
    assert from_headers(tmp_path, [f"sizeof(struct {structure})"]) == [getattr(abi, name).size]
