"""Breakpoints on data and on ports: traps behind the instruction (SDM vol. 3, 17.2.4-17.2.5).

Those on code are the processor's: it has fetched the instruction.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from mmiod.values import NeedRegisters, RegisterSet, VcpuState
from mmiod.x86.faults import Suspend
from mmiod.x86.steps import Cas, Enqueue, In, Out, Read, Step, Write

CR4_DE: Final = 1 << 3
_WRITES, _PORTS, _ALL = 1, 2, 3
_LENGTHS: Final = (1, 2, 8, 4)


@frozen
class Breakpoint:
    """One debug register: `bit` of DR6, the addresses it covers, the accesses it traps (R/W)."""

    bit: int
    address: int
    length: int
    kind: int

    def meets(self, step: Step) -> bool:
        """Whether a step accesses what it watches."""
        if isinstance(step, In | Out):
            return self.kind == _PORTS and self._covers(step.port, step.size)
        if isinstance(step, Read):
            return self.kind == _ALL and self._covers(step.address, step.size)
        if isinstance(step, Write | Cas):
            return self.kind != _PORTS and self._covers(step.address, step.size)
        return isinstance(step, Enqueue) and self.kind != _PORTS and self._covers(step.address, 64)

    def _covers(self, address: int, size: int) -> bool:
        return self.address < address + size and address < self.address + self.length


def watched(vcpu: VcpuState) -> list[Breakpoint]:
    """The breakpoints that DR7 enables on data and ports.

    Raises Suspend: where they are has to be asked for.
    """
    enabled = [(n, *_condition(vcpu, n)) for n in range(4) if vcpu.dr7 >> 2 * n & 3]
    armed = [(n, kind, length) for n, kind, length in enabled if kind]
    if not armed:
        return []
    if lacking := vcpu.lacking(RegisterSet.DEBUG):
        raise Suspend(NeedRegisters(lacking))
    assert vcpu.extended is not None
    dr = vcpu.extended.dr
    return [Breakpoint(1 << n, dr[n] & -length, length, kind) for n, kind, length in armed]


def _condition(vcpu: VcpuState, number: int) -> tuple[int, int]:
    """R/W and the length in bytes; R/W of 2 means nothing without CR4.DE."""
    bits = vcpu.dr7 >> 16 + 4 * number & 15
    kind = bits & 3
    return 0 if kind == _PORTS and not vcpu.cr4 & CR4_DE else kind, _LENGTHS[bits >> 2]
