"""Load a plugin: a Python file, or a package, that defines one device class.

`legacy/uart16550` is `legacy/uart16550.py` (or the package of that name) in the first
plugin directory that has it, or what an installed distribution calls so (see `discovery`).
A plugin is read once, as a `Source`, and made from that: what was checked in a child process
is what runs here, whatever happens to its files meanwhile.  Each load makes a module under
a fresh name, so that two generations never share one and nothing that is loaded changes
under a running device.
"""

from __future__ import annotations

import itertools
import linecache
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from attrs import frozen

from mmiod.config.shipped import shipped
from mmiod.device import API, Device
from mmiod.errors import PluginError
from mmiod.plugins import discovery
from mmiod.plugins.hooks import misfits

MAX_FILES: Final = 256
"""Of a plugin that is a package."""
_NAME: Final = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*")
_PREFIX: Final = "mmiod_plugin_"
_API: Final = re.compile(rb"^API *(?::[^=\n]*)?= *(\d+)", re.MULTILINE)
_GENERATIONS: Final = itertools.count(1)


class LoadError(PluginError):
    """A plugin cannot be loaded; `file` and `line` (0 if unknown) say where."""

    def __init__(self, name: str, reason: str, file: str = "", line: int = 0) -> None:
        place = f"{file}:{line}: " if line else f"{file}: " if file else ""
        super().__init__(f"plugin {name}: {place}{reason}")
        self.reason = reason
        self.file = file
        self.line = line


@frozen
class Source:
    """What a plugin's files held when they were read."""

    name: str
    path: str
    """The file that is executed."""
    files: Mapping[str, bytes]
    """By path: that one, and of a package all its modules."""


def bundled_directories() -> list[Path]:
    """Where the plugins are that come with mmiod."""
    return [shipped("devices")]


def find(name: str, directories: Sequence[Path]) -> Path:
    """The file of a plugin.

    Raises:
        PluginError: the name is no plugin's, or nothing has it, or two distributions have.
    """
    if not _NAME.fullmatch(name):
        raise PluginError(f"plugin {name!r}: a name is words of letters, digits and _ with / between them")
    for directory in directories:
        for candidate in (directory / f"{name}.py", directory / name / "__init__.py"):
            if candidate.is_file():
                return candidate
    installed = discovery.installed(name)
    if installed is not None:
        return installed
    searched = ", ".join(str(directory) for directory in directories) or "no directory"
    near = " or ".join(discovery.similar(name, directories))
    hint = f"; there is {near}" if near else ""
    raise PluginError(f"plugin {name}: not found in {searched}{hint}")


def read(name: str, directories: Sequence[Path]) -> Source:
    """Read a plugin's files.

    Raises:
        PluginError: it is not found, cannot be read, or is too large.
    """
    path = find(name, directories)
    found = [path] if path.name != "__init__.py" else sorted(path.parent.rglob("*.py"))
    if len(found) > MAX_FILES:
        raise LoadError(name, f"{len(found)} files, at most {MAX_FILES}", str(path))
    try:
        return Source(name, str(path), {str(file): file.read_bytes() for file in found})
    except OSError as error:
        raise LoadError(name, error.strerror or str(error), str(error.filename)) from error


def load(name: str, directories: Sequence[Path]) -> type[Device]:
    """The device class of a plugin, in a new generation.

    Raises:
        PluginError: with file, line and reason.
    """
    return make(read(name, directories))


def make(source: Source) -> type[Device]:
    """The device class of a plugin that was read, in a new generation.

    Raises:
        LoadError: with file, line and reason.
    """
    _check_api(source)
    module_name = f"{_PREFIX}{source.name.replace('/', '_')}_g{next(_GENERATIONS)}"
    path = Path(source.path)
    package = [str(path.parent)] if path.name == "__init__.py" else None
    loader = _SourceLoader(module_name, source.path, source.files)
    spec = spec_from_file_location(module_name, path, loader=loader, submodule_search_locations=package)
    assert spec is not None, path
    module = module_from_spec(spec)
    sys.modules[module_name] = module  # attrs and typing look a class's module up
    _PACKAGES[module_name] = source.files
    try:
        _execute(source, loader, module)
        plugin = _device_class(source, module)
        _check_hooks(source, plugin)
    except BaseException:
        forget(module_name)
        raise
    return plugin


def forget(module_name: str) -> None:
    """Take a module, and what it imported of its own package, out again: nothing else holds them.

    Takes some 0.4 ms; may be called in any thread.
    """
    _PACKAGES.pop(module_name, None)
    sys.modules.pop(module_name, None)
    inner, generated = f"{module_name}.", f" {module_name}."
    for known in [name for name in list(sys.modules) if name.startswith(inner)]:
        del sys.modules[known]
    for file in [file for file in list(linecache.cache) if generated in file]:
        linecache.cache.pop(file, None)  # the text of methods that attrs and cattrs generated


def line_in(files: Mapping[str, bytes], error: BaseException) -> tuple[str, int]:
    """The file and line of a plugin nearest to where an error was raised; ("", 0) if in none."""
    if isinstance(error, SyntaxError) and error.filename in files:
        return str(error.filename), error.lineno or 0
    trace, found = error.__traceback__, ("", 0)
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in files:
            found = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next
    return found


def _check_api(source: Source) -> None:
    """See for which version of the SDK it is, before a name fails that another version has."""
    found = _API.search(source.files[source.path])
    api = API if found is None else int(found[1])
    if api != API:
        reason = f"it is written for API {api}; this mmiod has API {API}"
        raise LoadError(source.name, reason, source.path)


def _execute(source: Source, loader: Loader, module: ModuleType) -> None:
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a plugin's top level may raise anything
        file, line = line_in(source.files, error)
        raise LoadError(source.name, _reason(file, error), file or source.path, line) from error


def _reason(file: str, error: BaseException) -> str:
    """What was raised; that `file` is where, which a SyntaxError says too, is told beside it."""
    told = error.msg if isinstance(error, SyntaxError) and error.filename == file else error
    return f"{type(error).__name__}: {told}"


_PACKAGES: Final[dict[str, Mapping[str, bytes]]] = {}
"""The files of each generation, for the modules that it imports of its own package."""


class _SourceLoader(SourceFileLoader):
    """Compiles what was read: no bytecode cache, which knows a file's age in whole seconds only."""

    def __init__(self, fullname: str, path: str, files: Mapping[str, bytes]) -> None:
        super().__init__(fullname, path)
        self.files = files

    def path_stats(self, path: str) -> Mapping[str, Any]:
        raise OSError(f"{path} is not cached")

    def get_data(self, path: str) -> bytes:
        found = self.files.get(path)
        return super().get_data(path) if found is None else found


class _PackageFinder(MetaPathFinder):
    """Finds the modules of a plugin that is a package among what was read of it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        root, _, _ = fullname.partition(".")
        files = _PACKAGES.get(root)
        if files is None or path is None:
            return None
        base = Path(next(iter(path)), fullname.rpartition(".")[2])
        package, module = str(base / "__init__.py"), f"{base}.py"
        if package in files:
            loader = _SourceLoader(fullname, package, files)
            return spec_from_file_location(
                fullname, package, loader=loader, submodule_search_locations=[str(base)]
            )
        if module in files:
            return spec_from_file_location(fullname, module, loader=_SourceLoader(fullname, module, files))
        return None


sys.meta_path.insert(0, _PackageFinder())


def _device_class(source: Source, module: ModuleType) -> type[Device]:
    name, path = source.name, source.path
    classes = [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Device) and thing.__module__ == module.__name__
    ]
    if len(classes) != 1:
        found = ", ".join(sorted(thing.__name__ for thing in classes)) or "none"
        raise LoadError(name, f"it must define one device class; it defines {found}", path)
    return classes[0]


def _check_hooks(source: Source, plugin: type[Device]) -> None:
    for reason, function in misfits(plugin):
        code = getattr(function, "__code__", None)
        if code is not None and code.co_filename in source.files:
            raise LoadError(source.name, reason, code.co_filename, code.co_firstlineno)
        raise LoadError(source.name, reason, source.path)
