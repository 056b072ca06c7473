"""The processor that a KVM guest sees: the host's, less what there is no need for.

A plain 64-bit one with SSE2: no MTRRs, since there are none here; a local APIC only where
it is KVM's, which sets that bit itself; no hypervisor leaves, so that firmware behaves as
on other accelerators; nothing newer, since a nested KVM may promise what its own host then
refuses.  Who wants vector registers up to AVX-512's asks for them.

Specification: SDM vol. 2, CPUID; APM vol. 3, appendix E; KVM api.rst 4.46.
"""

from __future__ import annotations

from collections.abc import Mapping
from fcntl import ioctl
from typing import Final, Self

from attrs import frozen

from mmiod.vmm import kvm_abi as abi

_ALL: Final = 0xFFFF_FFFF
_MAX_ENTRIES: Final = 256


def _bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


_FPU, _DE, _PSE, _TSC, _MSR, _PAE, _CX8, _SEP, _PGE, _CMOV, _PAT = 0, 2, 3, 4, 5, 6, 8, 11, 13, 15, 16
_CLFLUSH, _MMX, _FXSR, _SSE, _SSE2 = 19, 23, 24, 25, 26
_SSE3, _CX16 = 0, 13
_SYSCALL, _NX, _LM = 11, 20, 29
_LAHF = 0
_CLFLUSH_SIZE: Final = 0xFF00
_ADDRESS_SIZES: Final = 0xFFFF

_LEAVES: Final = {
    0x0: (_ALL, _ALL, _ALL, _ALL),
    0x1: (
        _ALL,
        _CLFLUSH_SIZE,
        _bits(_SSE3, _CX16),
        _bits(
            _FPU, _DE, _PSE, _TSC, _MSR, _PAE, _CX8, _SEP, _PGE, _CMOV, _PAT,
            _CLFLUSH, _MMX, _FXSR, _SSE, _SSE2,
        ),
    ),
    0x8000_0000: (_ALL, _ALL, _ALL, _ALL),
    0x8000_0001: (0, 0, _bits(_LAHF), _bits(_SYSCALL, _NX, _LM)),
    0x8000_0002: (_ALL, _ALL, _ALL, _ALL),
    0x8000_0003: (_ALL, _ALL, _ALL, _ALL),
    0x8000_0004: (_ALL, _ALL, _ALL, _ALL),
    0x8000_0008: (_ADDRESS_SIZES, 0, 0, 0),
}  # fmt: skip
"""What is left of eax, ebx, ecx and edx of each leaf."""
_SSSE3, _SSE41, _SSE42, _POPCNT, _XSAVE, _AVX, _F16C = 9, 19, 20, 23, 26, 28, 29
_VECTORS: Final = {
    0x1: (_ALL, _CLFLUSH_SIZE, _LEAVES[0x1][2] | _bits(_SSSE3, _SSE41, _SSE42, _POPCNT, _XSAVE, _AVX, _F16C),
          _LEAVES[0x1][3]),
    0x7: (0, _ALL, _ALL, _ALL),
    0xD: (_ALL, _ALL, _ALL, _ALL),
}  # fmt: skip
"""The same with vector registers."""
_HIGHEST: Final = (0x0, 0x8000_0000)
"""Leaves whose eax is the highest leaf there is."""
_SIZES_LEAF: Final = 0x8000_0008


@frozen
class Processor:
    """`cpuid` is what KVM_SET_CPUID2 takes, `physical_bits` the width of a physical address."""

    cpuid: bytes
    physical_bits: int

    @classmethod
    def supported(cls, kvm: int, *, vectors: bool = False) -> Self:
        """By what the KVM behind this descriptor supports."""
        leaves = _LEAVES | _VECTORS if vectors else _LEAVES
        image = bytearray(abi.CPUID_HEAD.size + _MAX_ENTRIES * abi.CPUID_ENTRY.size)
        abi.CPUID_HEAD.pack_into(image, 0, _MAX_ENTRIES, 0)
        ioctl(kvm, abi.KVM_GET_SUPPORTED_CPUID, image)
        count, _ = abi.CPUID_HEAD.unpack_from(image)
        places = range(abi.CPUID_HEAD.size, len(image), abi.CPUID_ENTRY.size)
        host = [abi.CPUID_ENTRY.unpack_from(image, place) for place in places[:count]]
        guest = [_kept(entry, leaves) for entry in host if entry[0] in leaves]
        entries = b"".join(abi.CPUID_ENTRY.pack(*entry) for entry in guest)
        (sizes,) = (entry[3] for entry in guest if entry[0] == _SIZES_LEAF)
        return cls(abi.CPUID_HEAD.pack(len(guest), 0) + entries, sizes & 0xFF)


def _kept(entry: tuple[int, ...], leaves: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    leaf, index, flags, *words = entry
    eax, *others = (word & mask for word, mask in zip(words, leaves[leaf], strict=True))
    if leaf in _HIGHEST:
        eax = min(eax, max(known for known in leaves if known >> 16 == leaf >> 16))
    return (leaf, index, flags, eax, *others)
