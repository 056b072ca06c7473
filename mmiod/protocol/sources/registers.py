"""General registers in a source's structure: port and MSR values in and out, deltas applied.

A view that is used here has fields `rax`, `rdx`, ... named as in `GPRS`.
"""

from __future__ import annotations

from typing import Final

from mmiod.protocol.exit import SourceExit
from mmiod.protocol.exit.exits import MSR_SIZE
from mmiod.protocol.sources.layout import View
from mmiod.protocol.sources.source import access
from mmiod.values import READ, WRITE, DecodedExit, Delta, Direction, Segment, Space, ones

GPRS: Final = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
"""As x86 numbers them."""
SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs")

PORT_BITS: Final = 16
LOW: Final = ones(4)
EVENT_EXCEPTION: Final = 3
"""Type of an event to be injected (SDM vol. 3, 25.8.3; APM vol. 2, 15.20)."""


def gprs(view: View) -> list[int]:
    """The sixteen."""
    return [view[name] for name in GPRS]


def merged(old: int, size: int, value: int) -> int:
    """A register after a result of `size` bytes: 1 and 2 leave the rest of it (SDM vol. 1, 3.4.1.1)."""
    return value if size >= 4 else old & ~ones(size) | value


def fits(delta: Delta | None) -> bool:
    """Whether nothing changed but what `apply` and a reply carry: no segment was loaded, no #DB is due."""
    return delta is None or not (delta.segments or delta.debug or delta.shadow)


def apply(view: View, delta: Delta) -> None:
    """Write registers, RIP and RFLAGS back."""
    for number, value in delta.registers.items():
        view[GPRS[number]] = value
    view["rip"], view["rflags"] = delta.rip, delta.rflags


def port_access(arrived: SourceExit, view: View, direction: Direction, port: int, size: int) -> DecodedExit:
    """IN or OUT of the accumulator."""
    data = (view["rax"] & ones(size)).to_bytes(size, "little")
    return access(arrived, Space.PIO, direction, port, size, data)


def msr_access(arrived: SourceExit, view: View, direction: Direction, index: int) -> DecodedExit:
    """RDMSR or WRMSR of EDX:EAX."""
    value = (view["rdx"] & LOW) << 32 | view["rax"] & LOW
    return access(arrived, Space.MSR, direction, index, MSR_SIZE, value.to_bytes(MSR_SIZE, "little"))


def put_result(view: View, exit_: DecodedExit, data: bytes) -> tuple[str, ...]:
    """What an IN or RDMSR gave, into its registers; their names."""
    if exit_.direction == WRITE:
        return ()
    value = int.from_bytes(data, "little")
    if exit_.space == Space.MSR:
        view["rax"], view["rdx"] = value & LOW, value >> 32
        return "rax", "rdx"
    view["rax"] = merged(view["rax"], exit_.size, value)
    return ("rax",)


def direction_of(write: object) -> Direction:
    """WRITE if it is true."""
    return WRITE if write else READ


def event(vector: int, error_code: int | None) -> int:
    """An exception as VMCB.EVENTINJ and the GHCB code it: vector 7:0, type 10:8, EV 11, V 31, code 63:32."""
    valid = 1 << 31 | EVENT_EXCEPTION << 8 | vector
    return valid if error_code is None else valid | 1 << 11 | error_code << 32


def segment_of(view: View, name: str) -> Segment:
    """A VMCB segment: u16 selector, u16 attributes, u32 limit, u64 base.

    Attributes are packed to 12 bits (APM vol. 2, 15.5.1, table 15-2): AVL, L, D/B, G follow P.
    """
    data = view.octets(name)
    selector, packed, limit, base = (int.from_bytes(data[at:end], "little") for at, end in _SEGMENT)
    return Segment(base, limit, selector, packed & 0xFF | (packed & 0xF00) << 4)


_SEGMENT: Final = ((0, 2), (2, 4), (4, 8), (8, 16))
