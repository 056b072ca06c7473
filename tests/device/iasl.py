"""ACPICA's compiler and disassembler as the judge of ACPI tables."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

COMPLAINT = re.compile(r"error|warning|invalid|incorrect|mismatch", re.IGNORECASE)


def run(directory: Path, *arguments: str) -> str:
    """Run iasl; what it says."""
    done = subprocess.run(["iasl", *arguments], cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def check_decodes(directory: Path, name: str, data: bytes) -> str:
    """`iasl -d` may not complain, neither on the screen nor in what it writes; what it wrote."""
    (directory / f"{name}.dat").write_bytes(data)
    said = run(directory, "-d", f"{name}.dat")
    text = (directory / f"{name}.dsl").read_text()
    complaints = [line for line in said.splitlines() if COMPLAINT.search(line)]
    complaints += [line for line in text.splitlines() if "***" in line or "/* Incorrect" in line]
    assert not complaints, complaints
    return text


def check_compiles_to_itself(directory: Path, name: str, data: bytes) -> None:
    """Disassembled and compiled it is the same code again; the header is the compiler's."""
    said = run(directory, "-p", "again", f"{name}.dsl")
    assert "0 Errors, 0 Warnings, 0 Remarks" in said
    assert data[36:] == (directory / "again.aml").read_bytes()[36:]
