"""`mmioctl explain`: an instruction as mmiod decodes it, and what it would do.  No daemon is asked."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from typing import Final

import attrs

from mmiod.ctl.assembly import REGISTERS, SEGMENTS, operand_text, prefixes
from mmiod.ctl.client import Object
from mmiod.values import CS, Delta, ExtendedState, RegisterSet, Segment, VcpuState, ones
from mmiod.x86 import (
    Cas,
    Enqueue,
    GuestFault,
    Mode,
    NeedMore,
    NotSupported,
    Plan,
    Step,
    Suspend,
    Undefined,
    decode,
)

LONGEST: Final = 15
ITERATIONS: Final = 2
"""Of a REP that are shown."""
_CODE: Final = {Mode.CODE16: 0x009B, Mode.CODE32: 0xC09B, Mode.CODE64: 0xA09B}
_EXCEPTIONS: Final = {0: "#DE", 6: "#UD", 7: "#NM", 11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 17: "#AC"}
_ALL: Final = RegisterSet.X87 | RegisterSet.SSE | RegisterSet.AVX | RegisterSet.AVX512 | RegisterSet.PASID


# --- the command line ------------------------------------------------------------------------


def answer(words: list[str], mode: int, assignments: list[str], *, as_json: bool) -> str:
    """What the bytes do from a state with these registers.

    Raises:
        ValueError: an argument is wrong; the message names it.
    """
    found = explained(code_of(words), Mode(mode), dict(map(assignment, assignments)))
    return json.dumps(found) if as_json else "\n".join(_lines(found))


def assignment(text: str) -> tuple[str, int]:
    """A general register, rip or rflags, and its value.  Raises ValueError."""
    name, _, number = text.partition("=")
    known = [*REGISTERS, "rip", "rflags"]
    if name not in known:
        raise ValueError(f"--set: {name!r} is no register; there are: {', '.join(known)}")
    try:
        value = int(number, 0)
    except ValueError:
        raise ValueError(f"--set: {number!r} is no number for {name}") from None
    if not 0 <= value < 1 << 64:
        raise ValueError(f"--set: {number} does not fit {name}, which has 64 bits")
    return name, value


def code_of(words: list[str]) -> bytes:
    """The bytes of the command line.  Raises ValueError."""
    text = "".join(words)
    try:
        code = bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"BYTES: {text!r} is not hexadecimal, two digits for each byte") from None
    if not 1 <= len(code) <= LONGEST:
        raise ValueError(f"BYTES: {len(code)} bytes; an instruction has 1 to {LONGEST}")
    return code


# --- the answer ------------------------------------------------------------------------------


def explained(code: bytes, mode: Mode, registers: dict[str, int]) -> Object:
    """What the bytes are, and the steps from a state with these registers and flat segments."""
    found: Object = {"bytes": code.hex(" "), "mode": int(mode)}
    outcome = decode(code, mode)
    match outcome:
        case NeedMore(count):
            return {**found, "outcome": "need more", "detail": f"at least {count} more bytes"}
        case Undefined(vector):
            return {**found, "outcome": "fault", "detail": _exception(vector, outcome.error_code)}
        case NotSupported():
            detail = "no instruction that accesses memory, ports or MSRs, or one that mmiod does not execute"
            return {**found, "outcome": "unsupported", "detail": detail}
    i = outcome.instruction
    return {
        **found,
        "outcome": "plan",
        "length": i.length,
        "mnemonic": i.opcode.mnemonic,
        "operands": [text for operand in i.operands if (text := operand_text(operand, i))],
        "prefixes": list(prefixes(i)),
        "shape": i.opcode.shape,
        "direct": outcome.direct is not None,
        "atomic": i.lock,
        **_executed(outcome, _state(mode, registers)),
    }


def _state(mode: Mode, registers: dict[str, int]) -> VcpuState:
    """CPL 0, flat segments, no paging, all instruction sets enabled, opmasks that choose everything."""
    segments = [Segment(0, 0xFFFF_FFFF, 8, 0xC093) for _ in range(6)]
    segments[CS].attributes = _CODE[mode]
    efer = 0x500 if mode is Mode.CODE64 else 0
    state = VcpuState(segments=segments, cr0=0x11, cr4=0x4_0600, efer=efer, xcr0=0xE7)
    state.extended = ExtendedState(_ALL, k=[ones(8)] * 8, x87=bytes(160), pasid=1 << 31)
    state.gpr = [registers.get(name, 0) for name in REGISTERS]
    state.rip, state.rflags = registers.get("rip", 0), registers.get("rflags", 0) | 2
    return state


def _executed(plan: Plan, vcpu: VcpuState) -> Object:
    """The steps, each read giving 0, and how they end."""
    steps: list[Object] = []
    run = plan.run(vcpu, ITERATIONS)
    try:
        step = next(run)
        while True:
            steps.append({"step": type(step).__name__.lower(), **attrs.asdict(step, value_serializer=_value)})
            step = run.send(_answer(step))
    except StopIteration as end:
        return {"steps": steps, "result": _changes(end.value, vcpu)}
    except GuestFault as fault:
        return {"steps": steps, "fault": _exception(fault.vector, fault.error_code)}
    except Suspend as stop:
        return {"steps": steps, "suspended": str(stop.completion)}


def _answer(step: Step) -> int:
    match step:
        case Cas():
            return step.old
        case Enqueue():
            return 1
    return 0


def _value(_instance: object, _field: object, value: object) -> object:
    return value.name.lower() if isinstance(value, enum.Enum) else value


def _changes(delta: Delta, before: VcpuState) -> dict[str, int]:
    """Registers that were written, RIP and the flags always."""
    changes = {REGISTERS[number]: value for number, value in sorted(delta.registers.items())}
    changes |= {SEGMENTS[number]: loaded.selector for number, loaded in sorted(delta.segments.items())}
    if delta.vectors is not None:
        changes |= {f"xmm{number}": value for number, value in delta.vectors.xmm.items()}
        changes |= {f"zmm{number}": value for number, value in delta.vectors.zmm.items()}
        changes |= {f"k{number}": value for number, value in delta.vectors.k.items()}
    if delta.rflags != before.rflags:
        changes["rflags"] = delta.rflags
    return {**changes, "rip": delta.rip}


def _exception(vector: int, error_code: int | None) -> str:
    name = _EXCEPTIONS.get(vector, f"exception {vector}")
    return name if error_code is None else f"{name}({error_code:#x})"


# --- as text ---------------------------------------------------------------------------------


def _lines(found: Object) -> Iterator[str]:
    """For people."""
    yield f"{found['bytes']}  ({found['mode']}-bit code)"
    if found["outcome"] != "plan":
        yield f"{found['outcome']}: {found['detail']}"
        return
    yield f"{found['mnemonic']} {', '.join(found['operands'])}".rstrip()
    yield f"length    {found['length']}"
    yield f"prefixes  {', '.join(found['prefixes']) or 'none'}"
    atomic = ", atomic" if found["atomic"] else ""
    direct = "direct, or by generator" if found["direct"] else "by generator"
    yield f"plan      {found['shape']}{atomic}; {direct}"
    for step in found["steps"]:
        yield f"step      {_step(step)}"
    if "fault" in found:
        yield f"fault     {found['fault']}"
    elif "suspended" in found:
        yield f"waits     {found['suspended']}"
    else:
        changes = " ".join(f"{name}={value:#x}" for name, value in found["result"].items())
        yield f"result    {changes}"


def _step(step: Object) -> str:
    words = [f"{name}={_text(value)}" for name, value in step.items() if name != "step"]
    return f"{step['step']:6} {' '.join(words)}"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "+".join(f"{name}:{_text(one)}" for name, one in value.items())
    return f"{value:#x}" if isinstance(value, int) else str(value)
