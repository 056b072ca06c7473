"""A KVM vCPU's vector registers, in the standard form of XSAVE: read for an exit, changed by a completion.

Where the parts of a register lie in that form differs between processors (opmasks are at
1088 on Intel's, at 832 on AMD's); CPUID leaf 0xD tells, and so it is executed here.

Specification: SDM vol. 1, 13.4; KVM api.rst, KVM_GET_XSAVE.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from fcntl import ioctl
from typing import Final

from attrs import define, field, frozen

from mmiod.values import ExtendedState, RegisterSet, VectorDelta
from mmiod.vmm import kvm_abi as abi

# System V: edi is the leaf, esi the subleaf, rdx where eax, ebx, ecx and edx are put.
_CODE: Final = bytes.fromhex(
    "53"  #           push rbx
    "49 89 d0"  #     mov r8, rdx
    "89 f8"  #        mov eax, edi
    "89 f1"  #        mov ecx, esi
    "0f a2"  #        cpuid
    "41 89 00"  #     mov [r8], eax
    "41 89 58 04"  #  mov [r8 + 4], ebx
    "41 89 48 08"  #  mov [r8 + 8], ecx
    "41 89 50 0c"  #  mov [r8 + 12], edx
    "5b"  #           pop rbx
    "c3"  #           ret
)
_FUNCTION: Final = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
_XSAVE_LEAF: Final = 0xD
_COMPONENTS: Final = 512
"""Where an image says which components are not in their initial state."""
_X87: Final = 160
"""Bytes of the x87 registers, with which an image begins."""


@functools.cache
def _offset(component: int) -> int:
    """Where a component begins in an image; 0 if this processor does not have it."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_CODE)
    words = (ctypes.c_uint32 * 4)()
    _FUNCTION(ctypes.addressof(ctypes.c_char.from_buffer(page)))(_XSAVE_LEAF, component, words)
    return words[1] if words[0] else 0


@frozen
class Part:
    """Bytes `skip` to `skip` + `size` of `count` registers from `first` on, in a component."""

    component: int
    first: int
    count: int
    skip: int
    size: int

    @property
    def begin(self) -> int:
        """Where it lies in an image."""
        return _X87 if self.component == _SSE_COMPONENT else _offset(self.component)

    def place(self, number: int) -> slice:
        """Where one register's bytes are."""
        at = self.begin + (number - self.first) * self.size
        return slice(at, at + self.size)

    def has(self, number: int) -> bool:
        """Whether a register has bytes here."""
        return self.first <= number < self.first + self.count


_SSE_COMPONENT: Final = 1
_LOW: Final = Part(_SSE_COMPONENT, 0, 16, 0, 16)
_ZMM: Final = {
    RegisterSet.SSE: (_LOW,),
    RegisterSet.AVX: (Part(2, 0, 16, 16, 16),),
    RegisterSet.AVX512: (Part(6, 0, 16, 32, 32), Part(7, 16, 16, 0, 64)),
}
"""Where the 512 bits of zmm0-31 are, by set."""
_VECTORS: Final = RegisterSet.SSE | RegisterSet.AVX | RegisterSet.AVX512
_K: Final = Part(5, 0, 8, 0, 8)


@define
class Image:
    """KVM's XSAVE image of the vCPU `descriptor`."""

    descriptor: int
    data: bytearray = field(factory=lambda: bytearray(abi.XSAVE_SIZE))

    def __attrs_post_init__(self) -> None:
        ioctl(self.descriptor, abi.KVM_GET_XSAVE, self.data)

    def state(self, sets: RegisterSet) -> ExtendedState:
        """The registers of these sets; zeros where the processor lacks one."""
        state = ExtendedState(sets, x87=bytes(self.data[:_X87]) if RegisterSet.X87 in sets else b"")
        for part in (part for name in sets & _VECTORS for part in _ZMM[name]):
            for number in range(part.first, part.first + part.count):
                state.zmm[number] |= self._get(part, number) << 8 * part.skip
        if RegisterSet.AVX512 in sets:
            state.k = [self._get(_K, number) for number in range(8)]
        return state

    def apply(self, delta: VectorDelta) -> None:
        """Change the vCPU's registers."""
        if delta.x87:
            self.data[:_X87] = delta.x87
            self.data[_COMPONENTS] |= 1
        for number, value in delta.xmm.items():
            self._set(_LOW, number, value)
        for number, value in delta.zmm.items():
            for part in (part for parts in _ZMM.values() for part in parts if part.has(number)):
                self._set(part, number, value)
        for number, value in delta.k.items():
            self._set(_K, number, value)
        ioctl(self.descriptor, abi.KVM_SET_XSAVE, self.data)

    def _get(self, part: Part, number: int) -> int:
        return int.from_bytes(self.data[part.place(number)], "little") if part.begin else 0

    def _set(self, part: Part, number: int, value: int) -> None:
        """Zeros of a component in its initial state need no place, and a processor may have none."""
        new = value >> 8 * part.skip & (1 << 8 * part.size) - 1
        if new or self.data[_COMPONENTS] >> part.component & 1:
            self.data[part.place(number)] = new.to_bytes(part.size, "little")
            self.data[_COMPONENTS] |= 1 << part.component
