"""Changes to a tree of tables, arrays and plain values, such as a JSON document."""

from __future__ import annotations

import copy
from typing import Any, Final

from tests.fuzz.reader import Reader

ODD: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 2, 8, 255, 256, 1 << 16, 1 << 32, (1 << 64) - 1, 1 << 64, -(1 << 63), 1.5,
    "", "x", "0x10", "irq*", "pio:0x3f8", "mmio:0xffffffffffffffff", "00:01.0", "ones", "\ud800", "\0",
    [], [0], ["x"], [[]], {}, {"x": 0}, {"": {}},
)  # fmt: skip
"""What is put in the place of something."""
EDITS: Final = 4
DEPTH: Final = 8


def edited(document: Any, reader: Reader) -> Any:  # noqa: ANN401  # any tree
    """A copy in which up to four places were changed, as the input says."""
    root = {"": copy.deepcopy(document)}
    for _ in reader.times(EDITS):
        _edit(root, reader)
    return root.get("")


def _edit(root: dict[str, Any], reader: Reader) -> None:
    """Go down, one byte for each step, and change what is there by another two."""
    holder: Any = root
    key: Any = ""
    for _ in reader.times(DEPTH):
        step = reader.number()
        inner = holder[key] if key in holder or isinstance(holder, list) else None
        if not isinstance(inner, dict | list) or not inner or step == 0xFF:
            break
        holder, key = inner, _keys(inner)[step % len(inner)]
    ACTIONS[reader.number() % len(ACTIONS)](holder, key, reader.pick(ODD))


def _keys(holder: dict[str, Any] | list[Any]) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def _replace(holder: Any, key: Any, value: Any) -> None:  # noqa: ANN401
    holder[key] = copy.deepcopy(value)


def _remove(holder: Any, key: Any, _value: Any) -> None:  # noqa: ANN401
    if isinstance(holder, list) or key in holder:
        del holder[key]


def _add(holder: Any, key: Any, value: Any) -> None:  # noqa: ANN401
    if isinstance(holder, list):
        holder.append(copy.deepcopy(value))
    else:
        holder[f"{key}x"] = copy.deepcopy(value)


def _double(holder: Any, key: Any, _value: Any) -> None:  # noqa: ANN401
    _add(holder, key, holder[key] if isinstance(holder, list) else holder.get(key))


def _shift(holder: Any, key: Any, _value: Any) -> None:  # noqa: ANN401
    inner = holder[key] if isinstance(holder, list) else holder.get(key)
    if isinstance(inner, int):
        holder[key] = inner * 2 + 1


ACTIONS: Final = (_replace, _replace, _remove, _add, _double, _shift)
