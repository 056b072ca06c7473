"""Compiles the hot path (`mmiod.compiled`): for a wheel, and by `make compiled` for this tree.

    python hatch_build.py           does nothing if it was made of these very sources

Without Cython, a C compiler or Python's headers a wheel has the Python alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from mmiod import compiled  # noqa: E402  # of this tree, which may not be installed


def make() -> Path:
    """The folder with all of it; what was made of other sources is removed.

    Raises:
        ImportError: Cython or setuptools is missing.
        Exception: whatever the compilers had to complain about.
    """
    folder = compiled.MADE / compiled.digest()
    with _alone():
        if not all(library.exists() for library in _libraries(folder)):
            compiled.MADE.mkdir(exist_ok=True)
            for other in compiled.MADE.iterdir():
                if other != folder:  # which may hold another interpreter's
                    shutil.rmtree(other)
            with tempfile.TemporaryDirectory(dir=compiled.MADE) as scratch:
                _compile(Path(scratch))
                _move(Path(scratch) / "lib", folder)
    return folder


@contextmanager
def _alone() -> Iterator[None]:
    """Two set-ups of one tree wait for each other."""
    tree = os.open(compiled.MADE.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(tree, fcntl.LOCK_EX)
        yield
    finally:
        os.close(tree)


def _libraries(folder: Path) -> list[Path]:
    return [compiled.library(folder, name) for name in compiled.MODULES]


def _move(made: Path, folder: Path) -> None:
    for source, library in zip(_libraries(made), _libraries(folder), strict=True):
        library.parent.mkdir(parents=True, exist_ok=True)
        source.replace(library)


def _compile(scratch: Path) -> None:
    from Cython.Build import cythonize  # noqa: PLC0415  # only who compiles needs it
    from setuptools import Distribution, Extension  # noqa: PLC0415
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    files = {name: [name.replace(".", "/") + ".py"] for name in compiled.MODULES}
    extensions = [
        Extension(name, source, extra_compile_args=list(compiled.FLAGS)) for name, source in files.items()
    ]
    translated = cythonize(
        extensions, build_dir=str(scratch), compiler_directives=dict(compiled.DIRECTIVES), quiet=True
    )
    command = build_ext(Distribution({"ext_modules": translated}))
    command.build_lib, command.build_temp = str(scratch / "lib"), str(scratch / "objects")
    command.parallel = os.cpu_count()
    command.ensure_finalized()
    command.run()


class Hook(BuildHookInterface[Any]):
    """Puts it into a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add what was made; `version` is "editable" for a tree that is worked on."""
        if version == "editable":
            return
        os.chdir(ROOT)
        try:
            folder = make()
        except (Exception, SystemExit) as error:  # noqa: BLE001  # setuptools' errors have no base of their own
            self.app.display_warning(f"mmiod: the hot path is left as Python: {error!r}")
            return
        build_data.update(pure_python=False, infer_tag=True)
        build_data["force_include"].update(
            {str(library): str(library.relative_to(ROOT)) for library in _libraries(folder)}
        )


if __name__ == "__main__":
    os.chdir(ROOT)
    make()
