"""Firmware from assembly, by the system's own assembler: part `gcc`, which brings binutils."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Final

SIZE: Final = 0x10000
BASE: Final = 0xF0000
"""Where the image's shadow is, in which it runs: f000:0000."""
_JUMP: Final = bytes.fromhex("ea 0000 00f0")


@functools.cache
def assembled(text: str) -> bytes:
    """64 KiB of ROM that begin with `text` (Intel syntax, 16-bit code at first), entered at f000:0000."""
    with tempfile.TemporaryDirectory() as directory:
        source, code, image = (Path(directory, name) for name in ("a.s", "a.o", "a.bin"))
        source.write_text(f".intel_syntax noprefix\n.code16\n.globl _start\n_start:\n{text}\n")
        subprocess.run(["as", "--64", "-o", code, source], check=True)
        place = [f"-Ttext={BASE:#x}", "--oformat=binary", "-m", "elf_x86_64"]
        subprocess.run(["ld", *place, "-o", image, code], check=True)
        data = image.read_bytes()
    assert len(data) <= SIZE - 16, "it does not fit"
    return data.ljust(SIZE - 16, b"\0") + _JUMP.ljust(16, b"\0")
