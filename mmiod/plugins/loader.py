"""Load a plugin: a Python file, or a package, that defines one device class.

`legacy/uart16550` is `legacy/uart16550.py` (or the package of that name) in the first
plugin directory that has it.  Each load makes a module under a fresh name, so that two
generations never share one and nothing that is loaded changes under a running device.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from mmiod.device import API, Device
from mmiod.errors import PluginError

_NAME: Final = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*")
_GENERATIONS: Final = itertools.count(1)


def bundled_directories() -> list[Path]:
    """Where the plugins are that come with mmiod: in the source tree, or as installed."""
    package = Path(__file__).resolve().parent.parent
    return [
        found for found in (package.parent / "devices", package / "bundled" / "devices") if found.is_dir()
    ]


def find(name: str, directories: Sequence[Path]) -> Path:
    """The file of a plugin.

    Raises:
        PluginError: the name is no plugin's, or no directory has it.
    """
    if not _NAME.fullmatch(name):
        raise PluginError(f"plugin {name!r}: a name is words of letters, digits and _ with / between them")
    for directory in directories:
        for candidate in (directory / f"{name}.py", directory / name / "__init__.py"):
            if candidate.is_file():
                return candidate
    searched = ", ".join(str(directory) for directory in directories) or "no directory"
    raise PluginError(f"plugin {name}: not found in {searched}")


def load(name: str, directories: Sequence[Path]) -> type[Device]:
    """The device class of a plugin, in a new generation.

    Raises:
        PluginError: with file, line and reason.
    """
    path = find(name, directories)
    module_name = f"mmiod_plugin_{name.replace('/', '_')}_g{next(_GENERATIONS)}"
    package = [str(path.parent)] if path.name == "__init__.py" else None
    loader = _SourceLoader(module_name, str(path))
    spec = spec_from_file_location(module_name, path, loader=loader, submodule_search_locations=package)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = module_from_spec(spec)
    sys.modules[module_name] = module  # attrs and typing look a class's module up
    try:
        _execute(name, path, spec.loader, module)
        return _device_class(name, path, module)
    except PluginError:
        _forget(module_name)
        raise


def _execute(name: str, path: Path, loader: Loader, module: ModuleType) -> None:
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a plugin's top level may raise anything
        raise PluginError(f"plugin {name}: {_where(path, error)}: {type(error).__name__}: {error}") from error


def _forget(module_name: str) -> None:
    """Take a module and what it imported of its own package out again."""
    for known in [name for name in sys.modules if f"{name}.".startswith(f"{module_name}.")]:
        del sys.modules[known]


class _SourceLoader(SourceFileLoader):
    """Compiles at each load: the bytecode cache knows a file's age in whole seconds only."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError(f"{path} is not cached")


def _device_class(name: str, path: Path, module: ModuleType) -> type[Device]:
    api = getattr(module, "API", API)
    if api != API:
        raise PluginError(f"plugin {name}: {path} is written for API {api}; this mmiod has API {API}")
    classes = [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Device) and thing.__module__ == module.__name__
    ]
    if len(classes) != 1:
        found = ", ".join(sorted(thing.__name__ for thing in classes)) or "none"
        raise PluginError(f"plugin {name}: {path} must define one device class; it defines {found}")
    return classes[0]


def _where(path: Path, error: BaseException) -> str:
    """The place in the plugin's file nearest to the error."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or path}:{error.lineno}"
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{path}:{line}" if line else str(path)
