"""Check docs/slots.pml, the model of the slots' handshake, with spin."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from attrs import frozen

MODEL: Final = Path(__file__).parents[2] / "docs" / "slots.pml"
DEPTH: Final = "-m100000"
SAFETY: Final = ("-DSAFETY",)
"""Assertions, and nobody waits where nobody may."""
PROGRESS: Final = ("-DNP",)
"""No run goes round for ever."""
BROKEN: Final = {
    "without barriers": ("", "", ("-DNO_BARRIER",)),
    "the client rings before it stores": (
        "client!STATE,READY; ring();",
        "ring(); client!STATE,READY;",
        (),
    ),
    "the client does not look again": ("if :: !answered ->", "if :: true ->", ()),
    "the daemon does not look again": (
        "if :: word[BELL] == heard -> end_parked",
        "if :: true -> end_parked",
        (),
    ),
    "the daemon parks unsure": (
        "daemon!DAEMON_SLEEPS,1; sure();",
        "daemon!DAEMON_SLEEPS,1; barrier(daemon);",
        (),
    ),
    "posted writes are looked for first": (
        "ready = asked; taken = word[POSTED];",
        "taken = word[POSTED]; ready = asked;",
        (),
    ),
}
"""Mistakes: what is replaced in the model, by what, and options of spin.  The last one and the second
are about order, the others about sleep."""


@frozen
class Found:
    """What a check found."""

    errors: int
    states: int
    told: str


def check(
    directory: Path, options: tuple[str, ...] = (), search: tuple[str, ...] = SAFETY, text: str = ""
) -> Found:
    """Generate, compile and run the search, in `directory`; `text` is another model."""
    model = directory / "slots.pml"
    model.write_text(text or MODEL.read_text())
    _run(directory, "spin", *options, "-a", model.name)
    # Without its reduction, which does not go with looks into a buffer.
    _run(directory, "gcc", "-O2", "-w", "-DNOREDUCE", *search, "-o", "pan", "pan.c")
    told = _run(directory, "./pan", DEPTH, *(["-l"] if search == PROGRESS else []))
    found = re.search(r"errors: (\d+)\s+(\d+) states, stored", told)
    if found is None or "too small" in told:
        raise RuntimeError(told)
    return Found(int(found[1]), int(found[2]), told)


def mistaken(name: str) -> tuple[str, tuple[str, ...]]:
    """A model with one of the mistakes, and the options that go with it."""
    old, new, options = BROKEN[name]
    text = MODEL.read_text()
    if old and text.count(old) != 1:
        raise ValueError(f"{name}: {old!r} is {text.count(old)} times in {MODEL.name}")
    return (text.replace(old, new) if old else text), options


def _run(directory: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def main() -> int:
    """All searches, one line each."""
    with tempfile.TemporaryDirectory() as name:
        directory, good = Path(name), True
        for what, search in (("nobody sleeps for ever", SAFETY), ("all that is asked is answered", PROGRESS)):
            found = check(directory, search=search)
            good &= not found.errors
            sys.stdout.write(f"{what}: {found.errors} errors in {found.states} states\n")
        for what in BROKEN:
            text, options = mistaken(what)
            found = check(directory, options, text=text)
            good &= bool(found.errors)
            sys.stdout.write(f"{what}: {'an error, as there must be' if found.errors else 'NO ERROR'}\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
