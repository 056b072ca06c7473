"""What import-linter cannot see: the plugins' folder is no package."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(ROOT.glob("devices/**/*.py"))
ALLOWED = ("mmiod.device", "mmiod.values", "attrs", *sys.stdlib_module_names)


def imported(source: str) -> set[str]:
    """The modules that a plugin's text imports; its own package, imported by dots, is left out."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    absolute = [node for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return plain | {node.module for node in absolute if node.module}


def foreign(source: str) -> set[str]:
    """Those of them that a plugin may not import."""
    return {
        name
        for name in imported(source)
        if not any(name == allowed or name.startswith(allowed + ".") for allowed in ALLOWED)
    }


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda plugin: str(plugin.relative_to(ROOT)))
def test_plugin_sees_the_sdk_only(plugin: Path) -> None:
    """A plugin imports mmiod.device, mmiod.values, attrs, the standard library and its own package."""
    assert set() == foreign(plugin.read_text())


def test_the_rule_bites() -> None:
    """Another layer, another package and a name that merely begins alike are foreign."""
    source = """
import os.path, trio
from mmiod import machine
from mmiod.device import Device
from mmiod.device.pci import PciFunction
from mmiod.device_task import run
from . import registers
"""

    assert {"trio", "mmiod", "mmiod.device_task"} == foreign(source)
