"""Where Unicorn is known to be wrong about instructions; this CPU judges there instead.

A row counts among the project's differences, of which there may be 20 (`tests/qemu`).  Its
proof is a case in which Unicorn still does otherwise than mmiod, and this CPU does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import frozen

from mmiod.x86 import Mode
from tests.x86.predicted import decoded
from tests.x86.situations import Case


@frozen
class Difference:
    """One row; `proof` is (bytes in hex, mode, seed) of a case."""

    forms: str
    """Beginnings of their names."""
    condition: str
    citation: str
    applies: Callable[[Case], bool]
    proof: tuple[str, Mode, int]

    def excuses(self, case: Case) -> bool:
        """Whether the row is about this case."""
        return case.form.startswith(tuple(self.forms.split())) and self.applies(case)


TABLE: Final = (
    Difference(
        "CMPXCHG_RM32",
        "64-bit code, equal: QEMU clears bits 63:32 of RAX",
        "SDM vol. 2, CMPXCHG: the accumulator is written only if not equal",
        lambda case: case.mode is Mode.CODE64,
        ("f0430fb11430", Mode.CODE64, 2),
    ),
    Difference(
        "NEG_",
        "LOCK: QEMU reads twice, and sets the flags of another result",
        "SDM vol. 2, NEG: flags according to the result",
        lambda case: decoded(case.code, case.mode).has_lock_prefix,
        ("65f0f61c", Mode.CODE16, 1),
    ),
    Difference(
        "POPCNT_R CRC32_R MOVBE_ ADCX_",
        "16-bit code: QEMU takes 66 for 16-bit operands and none for 32-bit ones, and refuses ADCX",
        "SDM vol. 1, 3.6.1: 66 selects the size that is not the default",
        lambda case: case.mode is Mode.CODE16,
        ("f30fb893bc3c", Mode.CODE16, 0),
    ),
    Difference(
        "SHLD_ SHRD_",
        "relative to RIP, count in the instruction: QEMU counts from the byte before the next instruction",
        "SDM vol. 2, 2.2.1.6: the displacement is relative to the RIP of the next instruction",
        lambda case: decoded(case.code, case.mode).is_ip_rel_memory_operand and case.form.endswith("IMM8"),
        ("0fac2da885010080", Mode.CODE64, 102),
    ),
    Difference(
        "MOVSXD_R16",
        "QEMU reads 4 bytes, and so do AMD's processors",
        "SDM vol. 2, MOVSXD r16, r/m16: 2 bytes on Intel's",
        lambda _: True,
        ("666300", Mode.CODE64, 0),
    ),
)
