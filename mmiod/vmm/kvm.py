"""The accelerator on Linux KVM: plain ioctls on /dev/kvm, one vCPU, interrupt controllers in mmiod or KVM.

KVM decodes: an access to a device goes out as it is, and KVM writes its result to
registers.  A port's string comes with all its elements as one access; one to memory of
more than 8 bytes, or over a page's end, comes in parts.

What KVM's emulator does not know (it says so, with the instruction's bytes) goes to mmiod's
own decoder.  Sometimes KVM notices late: of CMPXCHG16B it reads both operands, then gives
up.  Executed in mmiod, such an instruction would read its device twice, so the guest
cannot go on.

KVM_RUN blocks until the guest does something, so a message that no exit waits for must
end it.  Connections therefore raise SIGIO when something arrives.  The signal is blocked
but for the time that KVM_RUN takes: one that came before, and was not read yet, ends
KVM_RUN at once, so that none comes too early.

The guest sees the plain processor of `kvm_cpuid`.  A host's processor without "unrestricted guest"
(Intel before 2010) is not enough.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import socket
import struct
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from fcntl import ioctl
from typing import Final, Self

from attrs import frozen

from mmiod.errors import MmiodError
from mmiod.values import Delta, Direction, ExtendedState, Intent, RegisterSet, Space, VcpuState
from mmiod.vmm import kvm_abi as abi
from mmiod.vmm.accelerator import Halted, Paused, Perform, Stop, Touched, TripleFault, Unable
from mmiod.vmm.guest import GuestMemory
from mmiod.vmm.kvm_cpuid import Processor
from mmiod.vmm.kvm_fixtures import KvmFixtures
from mmiod.vmm.kvm_irqchip import KernelIrqchip
from mmiod.vmm.kvm_registers import Registers
from mmiod.vmm.kvm_vectors import Image

PATH: Final = "/dev/kvm"
NEEDED: Final = {
    abi.KVM_CAP_USER_MEMORY: "user memory",
    abi.KVM_CAP_EXT_CPUID: "CPUID",
    abi.KVM_CAP_VCPU_EVENTS: "vCPU events",
    abi.KVM_CAP_DEBUGREGS: "debug registers",
    abi.KVM_CAP_XSAVE: "extended registers",
    abi.KVM_CAP_XCRS: "extended control registers",
    abi.KVM_CAP_SYNC_REGS: "copies of registers",
    abi.KVM_CAP_READONLY_MEM: "read-only memory",
    abi.KVM_CAP_IMMEDIATE_EXIT: "immediate exit",
    abi.KVM_CAP_IOEVENTFD: "eventfds for writes",
}
"""Capabilities without which this module cannot work."""
NEEDED_FOR_IRQCHIP: Final = {
    abi.KVM_CAP_IRQCHIP: "interrupt controllers",
    abi.KVM_CAP_IRQFD_RESAMPLE: "interrupt lines that are sampled again",
    abi.KVM_CAP_SIGNAL_MSI: "interrupt messages",
}
"""The same of those in the kernel."""


F_SETOWN_EX: Final = 15
F_OWNER_TID: Final = 0
"""fcntl.h; Python has neither."""
_OWNER: Final = struct.Struct("<ii")
_WAKING: Final = frozenset({signal.SIGIO})
_SIGNAL_SET_SIZE: Final = 8


class Unavailable(MmiodError):
    """KVM cannot be used here; the message says why."""


class SignalAlarm:
    """SIGIO to this thread, which is blocked from now on but for the time that KVM_RUN takes."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._owner = _OWNER.pack(F_OWNER_TID, threading.get_native_id())
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAKING)

    def watch(self, connection: socket.socket) -> None:
        """Ring for messages on this connection."""
        fcntl.fcntl(connection, F_SETOWN_EX, self._owner)
        fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)

    def ring(self) -> None:
        """Ring for something else that has come; for any thread."""
        signal.pthread_kill(self._thread, signal.SIGIO)

    def silence(self) -> None:
        """Forget the signal; who reads the messages does so afterwards."""
        signal.sigtimedwait(_WAKING, 0)


@frozen
class Kvm:
    """The open /dev/kvm and the processor that guests get."""

    descriptor: int
    processor: Processor

    @classmethod
    def open(cls, path: str = PATH, *, irqchip: bool = False, vectors: bool = False) -> Self:
        """Open KVM and see that it has what is needed, also for interrupt controllers in the kernel.

        With `vectors` guests get vector registers up to AVX-512's, as far as KVM has them.

        Raises:
            Unavailable: it is not there, not ours to use, or too old.
        """
        with ExitStack() as stack:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                version = ioctl(descriptor, abi.KVM_GET_API_VERSION, 0)
            except OSError as error:
                raise Unavailable(f"--accel kvm needs {path}: {_ADVICE.get(type(error), error)}") from error
            if version != abi.API_VERSION:
                raise Unavailable(f"{path} has API version {version}, not {abi.API_VERSION}")
            needed = NEEDED | NEEDED_FOR_IRQCHIP if irqchip else NEEDED
            missing = [name for number, name in needed.items() if not _has(descriptor, number)]
            if missing:
                raise Unavailable(f"this kernel's KVM lacks {', '.join(missing)}")
            kvm = cls(descriptor, Processor.supported(descriptor, vectors=vectors))
            weakref.finalize(kvm, stack.pop_all().close)
            return kvm

    def has(self, capability: int) -> bool:
        """Whether this KVM has a capability."""
        return _has(self.descriptor, capability)


_ADVICE: Final[dict[type[OSError], str]] = {
    FileNotFoundError: "it is not there (modprobe kvm_intel or kvm_amd; a VM needs nested virtualization)",
    PermissionError: "you may not open it (join its group, usually kvm)",
}


def _has(descriptor: int, capability: int) -> bool:
    return ioctl(descriptor, abi.KVM_CHECK_EXTENSION, capability) > 0


class KvmCpu:
    """A virtual machine of one vCPU.  `perform` is called for accesses while it runs.

    With `ring` the interrupt controllers are KVM's: see `kvm_irqchip`.
    """

    count = 0

    def __init__(
        self, kvm: Kvm, memory: GuestMemory, perform: Perform, ring: Callable[[], None] | None = None
    ) -> None:
        self._memory, self._perform = memory, perform
        self._code = b""
        self._has_read: tuple[int, int] | None = None
        """Where the instruction is for which KVM read a device last."""
        vm = ioctl(kvm.descriptor, abi.KVM_CREATE_VM, 0)
        self.fixtures = KvmFixtures(vm)
        self.irqchip = None if ring is None else KernelIrqchip(vm, ring)
        self._vcpu = ioctl(vm, abi.KVM_CREATE_VCPU, 0)
        if self.irqchip is not None:
            self.irqchip.attach(self._vcpu)
            weakref.finalize(self, self.irqchip.close)
        weakref.finalize(self, _close, self._vcpu, vm)
        for slot in memory.slots:
            flags = abi.KVM_MEM_READONLY if slot.read_only else 0
            region = abi.MEMORY_REGION.pack(slot.number, flags, slot.gpa, slot.length, slot.address)
            ioctl(vm, abi.KVM_SET_USER_MEMORY_REGION, region)
        if kvm.has(abi.KVM_CAP_EXIT_ON_EMULATION_FAILURE):
            ioctl(vm, abi.KVM_ENABLE_CAP, abi.ENABLE_CAP.pack(abi.KVM_CAP_EXIT_ON_EMULATION_FAILURE, 0, 1))
        ioctl(self._vcpu, abi.KVM_SET_CPUID2, kvm.processor.cpuid)
        self._run = mmap.mmap(self._vcpu, ioctl(kvm.descriptor, abi.KVM_GET_VCPU_MMAP_SIZE, 0))
        self.registers = Registers(self._vcpu, self._run)
        ioctl(self._vcpu, abi.KVM_SET_SIGNAL_MASK, abi.SIGNAL_MASK.pack(_SIGNAL_SET_SIZE, 0))

    # --- running -----------------------------------------------------------------------

    def arm(self, limit: int, *, interrupt: bool) -> None:
        """Pause at once if `limit` is 0 (KVM counts nothing), or where an interrupt can be taken."""
        self._run[abi.RUN_IMMEDIATE_EXIT] = not limit
        self._run[abi.RUN_REQUEST_INTERRUPT_WINDOW] = interrupt

    def run(self) -> Stop:
        """Execute until something stops the vCPU; then no access is half done.

        Raises:
            TripleFault: the vCPU has shut down.
            Unable: KVM cannot go on.
        """
        stop: Stop | None = None
        while stop is None:
            try:
                ioctl(self._vcpu, abi.KVM_RUN, 0)
            except InterruptedError:
                return Paused()
            except OSError as error:
                raise Unable(f"KVM_RUN: {error}") from error
            (reason,) = _WORD.unpack_from(self._run, abi.RUN_EXIT_REASON)
            stop = _EXITS.get(reason, KvmCpu.on_unknown)(self)
        return stop

    def on_io(self) -> None:
        """Port I/O: `count` elements of one instruction."""
        direction, size, port, count, offset = abi.RUN_IO.unpack_from(self._run)
        end = offset + size * count
        if direction == abi.KVM_EXIT_IO_OUT:
            self._perform(Space.PIO, Direction.WRITE, port, size, count, self._run[offset:end])
        else:
            self._run[offset:end] = self._perform(Space.PIO, Direction.READ, port, size, count, b"")

    def on_mmio(self) -> None:
        """An access of up to 8 bytes, or a part of one."""
        gpa, data, length, is_write = abi.RUN_MMIO.unpack_from(self._run)
        size, count = (length, 1) if length in _SIZES else (1, length)
        if is_write:
            self._perform(Space.MMIO, Direction.WRITE, gpa, size, count, data[:length])
        else:
            self._has_read = self.registers.place
            read = self._perform(Space.MMIO, Direction.READ, gpa, size, count, b"")
            self._run[abi.RUN_MMIO_DATA : abi.RUN_MMIO_DATA + length] = read

    def on_halted(self) -> Stop:
        """HLT."""
        return Halted()

    def on_window(self) -> Stop:
        """The interrupt window that was asked for is open."""
        return Paused()

    def on_shutdown(self) -> Stop:
        """A triple fault."""
        raise TripleFault("KVM_EXIT_SHUTDOWN")

    def on_entry_failure(self) -> Stop:
        """The processor does not enter this guest."""
        (reason,) = abi.RUN_ENTRY_FAILURE.unpack_from(self._run)
        raise Unable(f"the processor refuses to run the guest: hardware reason {reason:#x}")

    def on_internal_error(self) -> Stop:
        """An instruction that KVM's emulator does not know is mmiod's; the rest is nobody's."""
        suberror, words, flags, length, code = abi.RUN_FAILURE.unpack_from(self._run)
        if suberror != abi.KVM_INTERNAL_ERROR_EMULATION:
            raise Unable(f"KVM has an internal error {suberror}")
        if self._has_read == self.registers.place:
            raise Unable(f"KVM read a device for {code[:length].hex(' ')}, which it does not know")
        told = words and flags & abi.KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
        self._code = code[:length] if told else b""
        return Touched()

    def on_unknown(self) -> Stop:
        """An exit that nothing here asks for."""
        (reason,) = _WORD.unpack_from(self._run, abi.RUN_EXIT_REASON)
        raise Unable(f"KVM exits with reason {reason}")

    # --- between runs ------------------------------------------------------------------

    @property
    def interruptible(self) -> bool:
        """Whether an interrupt would be taken now."""
        return bool(self._run[abi.RUN_READY_FOR_INTERRUPT_INJECTION])

    @property
    def interrupts_enabled(self) -> bool:
        """RFLAGS.IF."""
        return bool(self._run[abi.RUN_IF_FLAG])

    def state(self) -> VcpuState:
        """The registers, for an exit."""
        return self.registers.load()

    def code(self) -> bytes:
        """The bytes that KVM fetched; an instruction may be shorter."""
        return self._code

    def translate(self, linear: int, _intent: Intent) -> int | None:
        """The physical address, as the page tables have it; accessed and dirty bits stay as they are."""
        image = bytearray(abi.TRANSLATION.pack(linear, 0, 0))
        ioctl(self._vcpu, abi.KVM_TRANSLATE, image)
        _, gpa, valid = abi.TRANSLATION.unpack(image)
        return gpa if valid else None

    def apply(self, delta: Delta) -> None:
        """Write back what an instruction did that mmiod executed."""
        for gpa, data in delta.memory:
            self._memory.write(gpa, data)
        if delta.vectors is not None:
            Image(self._vcpu).apply(delta.vectors)
        self.registers.apply(delta)
        self._run[abi.RUN_READY_FOR_INTERRUPT_INJECTION] &= bool(delta.rflags & _IF)

    def vectors(self, sets: RegisterSet) -> ExtendedState:
        """Vector registers, and where breakpoints are; the guest's processor has no PASID."""
        state = Image(self._vcpu).state(sets)
        if RegisterSet.DEBUG in sets:
            state.dr = self.registers.breakpoints()
        return state

    def interrupt(self, vector: int) -> None:
        """Deliver an interrupt at the next entry."""
        ioctl(self._vcpu, abi.KVM_INTERRUPT, _WORD.pack(vector))
        self._run[abi.RUN_READY_FOR_INTERRUPT_INJECTION] = 0

    def fault(self, vector: int, error_code: int | None, cr2: int | None) -> None:
        """Raise an exception at the next entry; an interrupt waits until its handler lets it in."""
        self.registers.fault(vector, error_code, cr2)
        self._run[abi.RUN_READY_FOR_INTERRUPT_INJECTION] = 0

    def trap(self, bits: int) -> None:
        """Raise #DB at the next entry; an interrupt waits as with `fault`."""
        self.registers.set_debug_status(bits)
        self.fault(_DB, None, None)

    def reset(self) -> None:
        """The state after a reset; memory keeps what it holds."""
        self._has_read = None
        self.registers.reset()
        if self.irqchip is not None:
            self.irqchip.reset()
        self._run[abi.RUN_READY_FOR_INTERRUPT_INJECTION] = 0


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


_WORD: Final = struct.Struct("<I")
_IF: Final = 1 << 9
_DB: Final = 1
_SIZES: Final = frozenset({1, 2, 4, 8})
_EXITS: Final[dict[int, Callable[[KvmCpu], Stop | None]]] = {
    abi.KVM_EXIT_IO: KvmCpu.on_io,
    abi.KVM_EXIT_MMIO: KvmCpu.on_mmio,
    abi.KVM_EXIT_HLT: KvmCpu.on_halted,
    abi.KVM_EXIT_IRQ_WINDOW_OPEN: KvmCpu.on_window,
    abi.KVM_EXIT_SHUTDOWN: KvmCpu.on_shutdown,
    abi.KVM_EXIT_FAIL_ENTRY: KvmCpu.on_entry_failure,
    abi.KVM_EXIT_INTERNAL_ERROR: KvmCpu.on_internal_error,
}
