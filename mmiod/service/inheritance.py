"""Execute this program anew, in the same process: what stays is a document and descriptors.

execve(2) keeps the process and with it its id, its manager's trust and all descriptors that
are not close-on-exec; threads, mappings and everything of Python's end.  The document is in a
memfd, whose number the next program finds in its environment.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

VARIABLE: Final = "MMIOD_INHERITANCE"
TRIAL: Final = "MMIOD_TRIAL"
"""The same for a child that only tells whether it would serve."""
ARGUMENTS: Final = [sys.executable, *sys.orig_argv[1:]]
"""How this program was started."""
ENVIRONMENT: Final = {
    name: text
    for name, text in os.environ.items()
    if name not in {VARIABLE, TRIAL} and not name.startswith("LISTEN_")
}
"""The environment with which, but for descriptors: those have other numbers now."""


def write(document: bytes) -> int:
    """A file that has the document, at its beginning; who executes or starts a program passes it on."""
    file = os.memfd_create("mmiod-inheritance", os.MFD_CLOEXEC)
    with os.fdopen(file, "wb", closefd=False) as stream:
        stream.write(document)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def execute(document: bytes, descriptors: Iterable[int]) -> NoReturn:
    """Become the program that this one was started as, with the code that is there now.

    Raises:
        OSError: that cannot be; everything is as it was.
    """
    file = write(document)
    passed = [file, *descriptors]
    for descriptor in passed:
        os.set_inheritable(descriptor, True)
    try:
        os.execve(sys.executable, ARGUMENTS, {**ENVIRONMENT, VARIABLE: str(file)})  # noqa: S606
    except OSError:
        for descriptor in passed:
            os.set_inheritable(descriptor, False)
        os.close(file)
        raise


def take(name: str, environment: MutableMapping[str, str] = os.environ) -> bytes | None:
    """The document that a variable of the environment leads to; None if there is none.

    Raises:
        ValueError: the variable is no descriptor's number.
        OSError: the descriptor is not open.
    """
    number = environment.pop(name, None)
    if number is None:
        return None
    if not number.isdecimal():
        raise ValueError(f"{name}={number}: a descriptor's number was expected")
    with os.fdopen(int(number), "rb") as file:
        return file.read()


def clean_up() -> None:
    """End what outlives an execve and is nobody's any more: a timer, and children."""
    signal.setitimer(signal.ITIMER_PROF, 0)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for child in map(int, children):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    for child in map(int, children):
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
