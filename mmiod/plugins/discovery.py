"""Plugins of installed distributions: entry points of the group `mmiod.devices`.

    [project.entry-points."mmiod.devices"]
    "acme/nic" = "acme_devices.nic"         # a module: the plugin `acme/nic`

The module is found and not imported, nor are the packages it is in: it becomes a module under
a name of its own, again with each generation.  A plugin directory's file of the same name wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from mmiod.errors import PluginError

GROUP: Final = "mmiod.devices"


def installed(name: str) -> Path | None:
    """The file of a distribution's plugin, if one is called so.

    Raises:
        PluginError: two distributions call a plugin so, or theirs is not there.
    """
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        return None
    if len(found) > 1:
        owners = " and ".join(sorted(_owner(point) for point in found))
        raise PluginError(
            f"plugin {name}: {owners} both have one; uninstall one, or put yours in a directory"
        )
    return _file(found[0])


def similar(name: str, directories: Sequence[Path]) -> list[str]:
    """Plugins in directories whose last word is nearly that of `name`, which somebody may have meant."""
    files = [(folder, file) for folder in directories for file in folder.glob("**/*.py") if file.is_file()]
    near = get_close_matches(name.rpartition("/")[2], {file.stem for _, file in files}, cutoff=0.75)
    return sorted(
        file.relative_to(folder).with_suffix("").as_posix() for folder, file in files if file.stem in near
    )


def _file(point: EntryPoint) -> Path:
    top, *rest = point.module.split(".")
    spec = None if point.attr else find_spec(top)  # of a name without dots: nothing is executed
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    bases = [Path(folder, *rest) for folder in folders]
    candidates = [file for base in bases for file in (base / "__init__.py", Path(f"{base}.py"))]
    if spec is not None and spec.origin is not None and not rest:
        candidates = [Path(spec.origin)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise PluginError(f"plugin {point.name}: {_owner(point)} says {point.value}, which is no module there")


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "somebody"
