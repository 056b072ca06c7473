"""`mmioctl qemu-args`: what it makes of the daemon's functions."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mmiod.ctl.__main__ import main
from mmiod.ctl.commands import show_functions
from mmiod.ctl.qemu import NoFunctions, arguments, command_line, size

ROOT = Path(__file__).parents[2]


def function(device: str, slot: str | None = None, vm: str = "guest") -> dict[str, Any]:
    """One function as ListFunctions gives it."""
    found = {"vm": vm, "device": device, "slot": slot, "socket": f"/run/a b/{device}", "msix": False}
    return {**found, "client": None, "memory": 0}


def devices(found: list[str]) -> list[Any]:
    """The -device arguments."""
    return [
        json.loads(value) for name, value in zip(found[::2], found[1::2], strict=True) if name == "-device"
    ]


def test_memory_is_shared_and_each_function_has_a_device() -> None:
    """In the order of the machine file; a function without a slot has no address."""
    found = arguments([function("uart", "00:10.0"), function("blk")], "1G")
    assert ["-m", "1G", "-object", "memory-backend-memfd,id=ram,size=1G,share=on"] == found[:4]
    assert ["-machine", "memory-backend=ram"] == found[4:6]
    socket = {"type": "unix", "path": "/run/a b/uart"}
    driver = {"driver": "vfio-user-pci"}
    assert [
        {**driver, "id": "uart", "addr": "10.0", "socket": socket},
        {**driver, "id": "blk", "socket": {**socket, "path": "/run/a b/blk"}},
    ] == devices(found)


def test_functions_of_one_device_are_told_to_be_several() -> None:
    """QEMU asks for `multifunction` in function 0 at least."""
    found = arguments([function("a", "00:10.0"), function("b", "00:10.1"), function("c", "00:11.0")], "1G")
    assert [True, True, None] == [device.get("multifunction") for device in devices(found)]


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        ([], "no VM has protocol"),
        ([function("a", vm="one"), function("a", vm="two")], "name one VM with --vm: one, two"),
        ([function("a", "01:00.0")], "a: slot 01:00.0 is not on bus 00"),
    ],
)
def test_what_cannot_be_started(functions: list[dict[str, Any]], words: str) -> None:
    """The reason is told."""
    with pytest.raises(NoFunctions, match=words):
        arguments(functions, "1G")


@pytest.mark.parametrize("text", ["512M", "4G", "1073741824", "2t", "1024k", "1.5G", "0x40000000"])
def test_sizes_that_qemu_reads(text: str) -> None:
    """They are passed on as they are."""
    assert text == size(text)


@pytest.mark.parametrize("text", ["", "-1", "4 G", "G", ".5G", "4GB", "0x", "\u0663G", "much"])
def test_sizes_that_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """QEMU would say so, or start with something else: the command line is wrong."""
    with pytest.raises(SystemExit, match="2"):
        main(["qemu-args", f"--memory={text}"])
    assert f"{text!r} is no size such as 512M or 4G" in capsys.readouterr().err


def test_a_shell_takes_the_line_apart_again() -> None:
    """Quotes and spaces come through."""
    found = arguments([function("uart", "00:10.0")], "1G")
    assert found == shlex.split(command_line(found).replace("\\\n", ""))


def test_the_line_of_the_readme_gives_qemu_its_arguments() -> None:
    """A shell that runs what README and docs/qemu.md show passes on each argument as it is."""
    found = arguments([function("uart", "00:10.0")], "1G")
    shown = f"mmioctl() {{ cat <<'END'\n{command_line(found)}\nEND\n}}\n"
    for page in ("README.md", "docs/qemu.md"):
        [line] = re.findall(r"^ +(eval .*qemu-system-x86_64.*)$", (ROOT / page).read_text(), re.MULTILINE)
        line = line.replace("qemu-system-x86_64", "qemu")  # a name that a function may have
        program = f"{shown}qemu() {{ printf '%s\\0' \"$@\"; }}\n{line}\n"
        passed = subprocess.run(["sh", "-c", program], stdout=subprocess.PIPE, check=True).stdout.decode()
        assert found == passed.split("\0")[:-1][-len(found) :], page


def test_functions_for_people() -> None:
    """Who is attached, and with how much memory."""
    attached = {**function("uart", "00:10.0"), "client": 4711, "memory": 3 << 20}
    [shown] = show_functions({"functions": [attached, function("blk")]})
    lines = [line.split() for line in shown.splitlines()]
    assert ["guest", "uart", "00:10.0", "pid", "4711", "3", "MiB", "/run/a", "b/uart"] == lines[1]
    assert ["guest", "blk", "-", "-", "0", "MiB", "/run/a", "b/blk"] == lines[2]
    assert ['no VM has protocol = "vfio-user"'] == list(show_functions({"functions": []}))
