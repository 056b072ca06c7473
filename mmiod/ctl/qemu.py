"""`mmioctl qemu-args`: what QEMU is started with, so that its guest has our functions."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Final

from mmiod.ctl.client import Object

_SIZE: Final = re.compile(r"0x[0-9a-f]+|[0-9]+(\.[0-9]+)?[bkmgtpe]?", re.ASCII | re.IGNORECASE)


class NoFunctions(Exception):
    """There is nothing to start QEMU with; the message says why."""


def size(text: str) -> str:
    """A size as QEMU writes it, of a command line.

    Raises:
        ArgumentTypeError: it is none.
    """
    if _SIZE.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512M or 4G")
    return text


def arguments(functions: Sequence[Object], memory: str) -> list[str]:
    """QEMU's arguments for the functions of one VM.

    Args:
        functions: the daemon's answer to ListFunctions.
        memory: the size of the guest's memory, as QEMU writes it ("512M").

    Raises:
        NoFunctions: there is none, or they are several VMs'.
    """
    vms = sorted({function["vm"] for function in functions})
    if len(vms) > 1:
        raise NoFunctions(f"name one VM with --vm: {', '.join(vms)}")
    if not functions:
        raise NoFunctions('no VM has protocol = "vfio-user"')
    # Shared memory, else every byte of DMA is a message.
    shared = f"memory-backend-memfd,id=ram,size={memory},share=on"
    found = ["-m", memory, "-object", shared, "-machine", "memory-backend=ram"]
    places = Counter(_device(function) for function in functions)
    for function in functions:
        together = function["slot"] is not None and places[_device(function)] > 1
        found += ["-device", json.dumps(_properties(function, together), separators=(",", ":"))]
    return found


def _device(function: Object) -> str | None:
    """Bus and device of a slot."""
    return None if function["slot"] is None else str(function["slot"]).partition(".")[0]


def _properties(function: Object, together: bool) -> dict[str, object]:
    """Of one -device; as JSON, because `socket` is a structure."""
    properties: dict[str, object] = {"driver": "vfio-user-pci", "id": function["device"]}
    bus, _, place = (function["slot"] or "").partition(":")
    if place and bus != "00":
        raise NoFunctions(f"{function['device']}: slot {function['slot']} is not on bus 00, which QEMU names")
    if place:
        properties["addr"] = place
    if together:
        properties["multifunction"] = True
    return properties | {"socket": {"type": "unix", "path": function["socket"]}}


def command_line(found: Sequence[str]) -> str:
    """Arguments for a shell, an option and its value on each line."""
    pairs = [f"{name} {shlex.quote(value)}" for name, value in zip(found[::2], found[1::2], strict=True)]
    return " \\\n".join(pairs)
