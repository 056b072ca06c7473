"""Everything that can happen to a device: the table of its inputs.

An input is a kind and plain arguments, so the same row serves the device that runs here, its
journal, a replay and a device in a process of its own.  What is not here (resets of a clock,
guest memory that changes) reaches a device by what it asks: see `mmiod.machine.journal`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from mmiod.device import Device, IrqOutput
from mmiod.values import Direction

Input = tuple[str, tuple[object, ...]]
"""A kind and the arguments behind the device."""
Perform = Callable[..., object]


def _read(device: Device, region: str, offset: int, size: int) -> object:
    return _settled(device, device.answerers[region].read(device, offset, size))


def _write(device: Device, region: str, offset: int, size: int, value: int) -> object:
    return _settled(device, device.answerers[region].write(device, offset, size, value))


def _read_batch(device: Device, region: str, offset: int, size: int, count: int, stride: int) -> object:
    return _settled(device, device.answerers[region].read_batch(device, offset, size, count, stride))


def _write_batch(device: Device, region: str, offset: int, size: int, data: bytes, stride: int) -> object:
    return _settled(device, device.answerers[region].write_batch(device, offset, size, data, stride))


def _enqueue(device: Device, region: str, offset: int, command: bytes) -> object:
    hook = device.regions[region].queue
    assert hook is not None, region
    return _settled(device, _call(device, hook, offset, command))


def _reset(device: Device) -> None:
    device.reset()
    device.on_settle()


def _deliver(device: Device, line: str, level: bool) -> None:
    device.input_of[line].deliver(device, line, level)
    device.on_settle()


def _fire(device: Device, timer: str) -> None:
    device.alarms[timer].deadline_ns = None
    device.timers[timer].fired(device)
    device.on_settle()


def _receive(device: Device, stream: str, data: bytes) -> None:
    _call(device, device.streams[stream].receive, data)
    device.on_settle()


def _reply(device: Device, service: str, number: int, data: bytes) -> None:
    device.askers[service].replied(device, number, data)
    device.on_settle()


def _fail(device: Device, service: str, number: int, reason: str) -> None:
    device.askers[service].failed(device, number, reason)
    device.on_settle()


def _rewind(device: Device) -> None:
    for job in device.jobs.values():
        job.rewind()


def _restart(device: Device) -> None:
    device.on_restart()
    device.on_settle()


def _acknowledge(device: Device, line: str) -> object:
    declared = device.outputs[line]
    vector = _call(device, declared.acknowledge) if isinstance(declared, IrqOutput) else None
    return _settled(device, vector)


def _settled(device: Device, answer: object) -> object:
    """The hook of an input has run: what follows from the device's state is brought up to date."""
    device.on_settle()
    return answer


def _call(device: Device, hook: str | None, *arguments: object) -> object:
    """Call a hook, if the device declares one."""
    answer: object = getattr(device, hook)(*arguments) if hook is not None else None
    return answer


INPUTS: Final[Mapping[str, Perform]] = {
    "read": _read,
    "write": _write,
    "read_batch": _read_batch,
    "write_batch": _write_batch,
    "enqueue": _enqueue,
    "reset": _reset,
    "deliver": _deliver,
    "fire": _fire,
    "receive": _receive,
    "reply": _reply,
    "fail": _fail,
    "acknowledge": _acknowledge,
    "rewind": _rewind,
    "restart": _restart,
}


def _room(device: Device, stream: str) -> object:
    return _call(device, device.streams[stream].capacity)


def _answers(device: Device, region: str, offset: int, size: int, direction: Direction, value: int) -> object:
    return device.answerers[region].answers(device, offset, size, direction, value)


QUESTIONS: Final[Mapping[str, Perform]] = {"room": _room, "answers": _answers}
"""What changes nothing, and so is in no journal."""


ANSWERS: Final = frozenset({"reply", "fail"})
"""A service's."""
UNANSWERED: Final = ANSWERS | {"fire", "receive"}
"""Nobody waits for what the device makes of them: one at which it fails is missed by it alone."""


def skip(device: Device, kind: str, arguments: tuple[object, ...]) -> None:
    """Take an input without its hook: what the framework itself notes of it."""
    name = str(arguments[0]) if arguments else ""
    if kind in {"fire", "reply", "fail"} and name in device.jobs:  # its run was in the midst of it
        device.jobs[name].cancel()
    elif kind == "fire":
        device.alarms[name].deadline_ns = None
    elif kind == "deliver":
        device.inputs[name] = arguments[1] is True


def again(device: Device, kind: str, arguments: tuple[object, ...]) -> Input | None:
    """What gives a device an unanswered input once more, behind `skip`; None if it does not know that.

    A run of a work that was in the midst of it begins anew.
    """
    name = str(arguments[0])
    if kind != "receive" and name in device.jobs:
        return "fire", (name,)
    return None if kind == "fire" and name not in device.timers else (kind, arguments)
