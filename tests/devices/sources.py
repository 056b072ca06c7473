"""How long a source is: lines with code on them, as an author writes them."""

from __future__ import annotations

import ast
import tokenize
from pathlib import Path
from typing import Final

_EMPTY: Final = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def lines_of_code(path: Path) -> int:
    """Lines without docstrings, comments and blank ones."""
    documented: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            documented.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    with path.open() as file:
        tokens = [token for token in tokenize.generate_tokens(file.readline) if token.type not in _EMPTY]
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - documented)
