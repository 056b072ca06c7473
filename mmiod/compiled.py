"""The hot path in C, where somebody has made it of this package's own Python.

`MODULES` are plain Python, and run as it.  `make compiled` has Cython translate the same files, with
the types that a .pxd beside each of them tells, and halves what an exit costs (docs/performance.md).
What has been made lies under the digest of the sources that it was made of: behind an edit it is not
found any more, so that what runs is always what the files say.

It is all of them or none: the layout of one module's structures is compiled into the others.
MMIOD_PURE=1 runs Python in any case.
"""

from __future__ import annotations

import functools
import os
import sys
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

MODULES: Final = (
    "mmiod.protocol.exit.book",
    "mmiod.machine.statistics",
    "mmiod.trace.recorder",
    "mmiod.core.places",
    "mmiod.core.lane",
    "mmiod.attach.loads",
    "mmiod.attach.flat",
    "mmiod.attach.vcpu_slot",
    "mmiod.attach.shared",
)
"""What an exit out of a slot passes; each after those whose structures it uses."""
DIRECTIVES: Final = {"language_level": 3, "annotation_typing": False, "nonecheck": True}
"""Cython's: types are what the .pxd says; bounds are checked, and whether there is anything at all."""
FLAGS: Final = ("-O2", "-g0", "-Werror=incompatible-pointer-types")
"""The C compiler's."""
ROOT: Final = Path(__file__).resolve().parent.parent
"""Where the package is."""
MADE: Final = ROOT / "mmiod" / "made"
"""Holds a folder for each digest: of this file's too, as it lists the modules."""


def digest() -> str:
    """Of everything that was compiled, or would be."""
    import hashlib  # noqa: PLC0415  # programs that need nothing of this start faster

    found = hashlib.sha256(Path(__file__).read_bytes())
    for name in MODULES:
        path = ROOT / name.replace(".", "/")
        for suffix in (".py", ".pxd"):
            found.update(path.with_suffix(suffix).read_bytes())
    return found.hexdigest()[:16]


def library(folder: Path, name: str) -> Path:
    """Where a module is in a folder that was made, for this interpreter."""
    from sysconfig import get_config_var  # noqa: PLC0415

    suffix: str = get_config_var("EXT_SUFFIX")
    return folder / (name.replace(".", "/") + suffix)


@functools.cache
def made() -> Path | None:
    """The folder that is used, if there is one."""
    if os.environ.get("MMIOD_PURE", "") not in {"", "0"}:
        return None
    try:
        folder = MADE / digest()
    except OSError:  # an installation that left sources out
        return None
    return folder if all(library(folder, name).exists() for name in MODULES) else None


class Finder:
    """Finds what was made before what it was made of."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The library of a module in the table; None: it is somebody else's to find."""
        if fullname not in MODULES:
            return None
        folder = made()
        return None if folder is None else spec_from_file_location(fullname, library(folder, fullname))


def use() -> None:
    """Have imports find what was made."""
    sys.meta_path.insert(0, Finder())
