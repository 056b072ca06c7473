from __future__ import annotations

import subprocess
from fcntl import ioctl
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.values import RegisterSet, VectorDelta
from mmiod.vmm import kvm_abi as abi
from mmiod.vmm.guest import GuestMemory
from mmiod.vmm.kvm import Kvm, KvmCpu
from mmiod.vmm.kvm_vectors import Image
from tests.vmm.fake import firmware

CPUINFO = Path("/proc/cpuinfo")
pytestmark = [
    pytest.mark.needs("kvm"),
    pytest.mark.skipif("avx512bw" not in CPUINFO.read_text(), reason="this processor has no AVX-512"),
]

ALL = RegisterSet.X87 | RegisterSet.SSE | RegisterSet.AVX | RegisterSet.AVX512
SOURCE = Path(__file__).with_name("xsave.c")


def cpu() -> KvmCpu:
    """One with all vector registers."""
    memory = GuestMemory.create(1, firmware("f4"))
    memory.close()  # it is mapped
    made = KvmCpu(Kvm.open(vectors=True), memory, lambda *_: b"")
    xcrs = abi.XCR.pack(1, 0, 0, 0, 0xE7)
    ioctl(made.registers.descriptor, abi.KVM_SET_XCRS, xcrs.ljust(abi.XCRS_SIZE, b"\0"))
    return made


def pattern(number: int) -> int:
    """What xsave.c puts into a register."""
    return int.from_bytes([number * 64 + at * 5 + 1 & 0xFF for at in range(64)], "little")


@pytest.mark.needs("gcc")
def test_the_layout_is_that_of_the_processors_own_xsave(tmp_path: Path) -> None:
    """An image that the processor stored, given to KVM: each register has its own bytes."""
    program = tmp_path / "xsave"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-mavx512bw", "-o", program, SOURCE], check=True)
    image = subprocess.run([program], check=True, capture_output=True).stdout
    kvm = cpu()
    ioctl(kvm.registers.descriptor, abi.KVM_SET_XSAVE, bytearray(image))

    state = kvm.vectors(ALL)

    assert [pattern(number) for number in range(32)] == state.zmm
    assert [0x0101010101010101 * number for number in range(1, 9)] == state.k
    assert image[:24] == state.x87[:24]


@settings(max_examples=25)
@given(
    st.dictionaries(st.integers(0, 15), st.integers(0, (1 << 128) - 1), max_size=3),
    st.dictionaries(st.integers(0, 31), st.integers(0, (1 << 512) - 1), max_size=3),
    st.dictionaries(st.integers(0, 7), st.integers(0, (1 << 64) - 1), max_size=3),
)
def test_what_changes_is_read_back_and_nothing_else(
    xmm: dict[int, int], zmm: dict[int, int], k: dict[int, int]
) -> None:
    """`xmm` keeps bits 511:128 of a register, `zmm` sets all of them."""
    kvm = cpu()
    full = {number: pattern(number) for number in range(32)}
    Image(kvm.registers.descriptor).apply(VectorDelta(zmm=full))
    Image(kvm.registers.descriptor).apply(VectorDelta(xmm, zmm, k))

    state = kvm.vectors(ALL)

    expected = [
        zmm.get(number, pattern(number) >> 128 << 128 | xmm.get(number, pattern(number) & (1 << 128) - 1))
        for number in range(32)
    ]
    assert expected == state.zmm
    assert [k.get(number, 0) for number in range(8)] == state.k


@pytest.mark.parametrize("sets", [RegisterSet.SSE, RegisterSet.AVX, RegisterSet.AVX512, RegisterSet.X87])
def test_only_what_is_asked_for_is_told(sets: RegisterSet) -> None:
    """Bits of other sets are 0."""
    parts = {
        RegisterSet.SSE: (1 << 128) - 1,
        RegisterSet.AVX: (1 << 256) - (1 << 128),
        RegisterSet.AVX512: (1 << 512) - (1 << 256),
        RegisterSet.X87: 0,
    }
    kvm = cpu()
    Image(kvm.registers.descriptor).apply(VectorDelta(zmm={7: (1 << 512) - 1}, k={1: 5}))

    state = kvm.vectors(sets)

    assert parts[sets] == state.zmm[7]
    assert (5 if sets is RegisterSet.AVX512 else 0) == state.k[1]
    assert (160 if sets is RegisterSet.X87 else 0) == len(state.x87)


def test_zeros_need_no_place() -> None:
    """What is cleared above a value needs no component that the processor may not have."""
    kvm = cpu()
    Image(kvm.registers.descriptor).apply(VectorDelta(zmm={0: 1}))

    image = Image(kvm.registers.descriptor).data

    assert 1 << 1 == image[512] & ~1
