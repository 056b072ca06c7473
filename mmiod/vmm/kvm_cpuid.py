"""The processor that a KVM guest sees: the host's, less what there is no need for.

A plain 64-bit one with SSE2: no local APIC and no MTRRs, since there are none here; no
hypervisor leaves, so that firmware behaves as on other accelerators; nothing newer, since
a nested KVM may promise what its own host then refuses.

Specification: SDM vol. 2, CPUID; APM vol. 3, appendix E; KVM api.rst 4.46.
"""

from __future__ import annotations

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
_HIGHEST: Final = {0x0: 0x1, 0x8000_0000: 0x8000_0008}
"""Leaves whose eax is the highest leaf there is."""
_SIZES_LEAF: Final = 0x8000_0008


@frozen
class Processor:
    """`cpuid` is what KVM_SET_CPUID2 takes, `physical_bits` the width of a physical address."""

    cpuid: bytes
    physical_bits: int

    @classmethod
    def supported(cls, kvm: int) -> Self:
        """By what the KVM behind this descriptor supports."""
        image = bytearray(abi.CPUID_HEAD.size + _MAX_ENTRIES * abi.CPUID_ENTRY.size)
        abi.CPUID_HEAD.pack_into(image, 0, _MAX_ENTRIES, 0)
        ioctl(kvm, abi.KVM_GET_SUPPORTED_CPUID, image)
        count, _ = abi.CPUID_HEAD.unpack_from(image)
        places = range(abi.CPUID_HEAD.size, len(image), abi.CPUID_ENTRY.size)
        host = [abi.CPUID_ENTRY.unpack_from(image, place) for place in places[:count]]
        guest = [_kept(entry) for entry in host if entry[0] in _LEAVES]
        entries = b"".join(abi.CPUID_ENTRY.pack(*entry) for entry in guest)
        (sizes,) = (entry[3] for entry in guest if entry[0] == _SIZES_LEAF)
        return cls(abi.CPUID_HEAD.pack(len(guest), 0) + entries, sizes & 0xFF)


def _kept(entry: tuple[int, ...]) -> tuple[int, ...]:
    leaf, index, flags, *words = entry
    eax, *others = (word & mask for word, mask in zip(words, _LEAVES[leaf], strict=True))
    return (leaf, index, flags, min(eax, _HIGHEST.get(leaf, eax)), *others)
