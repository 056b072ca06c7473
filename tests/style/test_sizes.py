"""A device is small, because what is not its own is the SDK's."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def code(node: ast.AST, text: str) -> int:
    """Lines of a node without docstrings, comments and blank ones."""
    assert isinstance(node, ast.Module | ast.ClassDef)
    lines = range(1, len(text.splitlines()) + 1)
    if isinstance(node, ast.ClassDef):
        assert node.end_lineno is not None
        lines = range(node.lineno, node.end_lineno + 1)
    strings = [
        inner
        for inner in ast.walk(node)
        if isinstance(inner, ast.Expr)
        and isinstance(inner.value, ast.Constant)
        and isinstance(inner.value.value, str)
    ]
    documented = {line for each in strings for line in range(each.lineno, (each.end_lineno or 0) + 1)}
    kept = [text.splitlines()[line - 1].strip() for line in lines if line not in documented]
    return sum(1 for line in kept if line and not line.startswith("#"))


def test_pvpanic_has_25_lines() -> None:
    """All of the file, docstring and imports included."""
    assert len((ROOT / "devices/pseudo/pvpanic.py").read_text().splitlines()) <= 25


def test_the_uart_has_130_lines() -> None:
    """The device, from its registers to its last hook; the names of its bits are a table beside it."""
    text = (ROOT / "mmiod/device/uart16550.py").read_text()
    (uart,) = (
        node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == "Uart"
    )
    assert 90 < code(uart, text) <= 130


def test_counting() -> None:
    """A docstring, a comment and blank lines do not count; code does."""
    text = '"""Doc."""\n\nimport os\n\n\nclass A:\n    """Doc\n    of it."""\n\n    # why\n    x = 1\n'
    module = ast.parse(text)
    assert (3, 2) == (code(module, text), code(module.body[2], text))
