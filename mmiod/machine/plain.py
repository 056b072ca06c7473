"""Attrs classes as plain data and back, checked: lists, tables, numbers, texts and bytes.

Two forms: `text_form` for JSON, where bytes are base85 text, and `byte_form` for what stays
in this process or goes to a child.  A class keeps its own converters, so that what cattrs
compiled for a generation of a plugin goes with it.
"""

from __future__ import annotations

from base64 import b85decode, b85encode
from collections.abc import Callable
from typing import Any, Final, TypeVar

import cattrs
from cattrs.cols import is_sequence, list_structure_factory
from cattrs.preconf.json import make_converter

from mmiod.device import Device
from mmiod.errors import RestoreError

T = TypeVar("T")

TAG: Final = "base85"
"""What tells bytes from text where no type does."""
TABLE: Final = "table"
"""Under it: the pairs of a table whose names are no texts."""


def text_form(kind: type[Device]) -> cattrs.Converter:
    """The converter of a device class whose bytes are text."""
    return _kept(kind, "_text_form", JSON)


def byte_form(kind: type[Device]) -> cattrs.Converter:
    """The converter of a device class whose bytes stay bytes."""
    return _kept(kind, "_byte_form", _BYTES)


def tagged(state: dict[str, Any]) -> dict[str, Any]:
    """Plain data as JSON takes it: bytes are `{"base85": text}`; see `untagged`."""
    return {name: _tagged(value) for name, value in state.items()}


def untagged(state: dict[str, Any]) -> dict[str, Any]:
    """Plain data that was `tagged`; what the tags do not hold stays, for `structure` to refuse."""
    return {name: _untagged(value) for name, value in state.items()}


def structure(converter: cattrs.Converter, data: object, kind: type[T], place: str) -> T:
    """Make an instance of plain data.

    Raises:
        RestoreError: it does not fit; the message names the place.
    """
    try:
        return converter.structure(data, kind)
    except (cattrs.BaseValidationError, ValueError, TypeError, KeyError) as error:
        reasons = "; ".join(cattrs.transform_error(error)).replace("@ $", f"at {place or '$'}")
        raise RestoreError(reasons) from error


def _kept(kind: type[Device], name: str, model: cattrs.Converter) -> cattrs.Converter:
    found: cattrs.Converter | None = vars(kind).get(name)
    if found is None:
        found = model.copy()
        found.get_structure_hook(kind.state_class)  # compiles: some milliseconds, here and not later
        found.get_unstructure_hook(kind.state_class)
        setattr(kind, name, found)
    return found


def _tagged(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, bytes):
        return {TAG: b85encode(value).decode()}
    if isinstance(value, list):
        return [_tagged(element) for element in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):  # JSON has no other names
            return {TAG: {TABLE: [[_tagged(key), _tagged(element)] for key, element in value.items()]}}
        table = tagged(value)
        return {TAG: [table[TAG]]} if table.keys() == {TAG} else table  # a table that looks like bytes
    return value


def _untagged(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, list):
        return [_untagged(element) for element in value]
    if not isinstance(value, dict):
        return value
    table = untagged(value)
    if table.keys() != {TAG}:
        return table
    content = table[TAG]
    if isinstance(content, list) and len(content) == 1:
        return {TAG: content[0]}
    try:
        if isinstance(content, dict) and content.keys() == {TABLE}:
            return dict(content[TABLE])
        return _encoded(content, bytes)
    except (TypeError, ValueError):
        return value


def _text_converter() -> cattrs.Converter:
    converter = make_converter(forbid_extra_keys=True)
    converter.register_unstructure_hook(bytearray, lambda value: b85encode(value).decode())
    converter.register_structure_hook(bytes, _encoded)
    converter.register_structure_hook(bytearray, lambda value, _: bytearray(_encoded(value, bytes)))
    converter.register_structure_hook_factory(is_sequence, _lists_only)
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(bool, _boolean)
    converter.register_structure_hook(str, _text)
    return converter


def _byte_converter() -> cattrs.Converter:
    converter = JSON.copy()
    for kind in (int, bool, str):  # a member of an enumeration is its number: no object of a plugin stays
        converter.register_unstructure_hook(kind, kind)
    converter.register_unstructure_hook(bytes, lambda value: value)
    converter.register_unstructure_hook(bytearray, bytes)
    converter.register_structure_hook(bytes, _bytes)
    converter.register_structure_hook(bytearray, lambda value, _: bytearray(_bytes(value, bytes)))
    return converter


def _lists_only(kind: Any, converter: cattrs.Converter) -> Callable[[object, object], Any]:  # noqa: ANN401
    """An empty text or table is no empty list, though it has as many elements."""
    structure = list_structure_factory(kind, converter)

    def checked(value: object, kind: object) -> object:
        if not isinstance(value, list):
            raise TypeError(f"{value!r} is no list")
        return structure(value, kind)

    return checked


def _integer(value: object, _: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no integer")
    return value


def _boolean(value: object, _: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _text(value: object, _: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _bytes(value: object, _: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"{value!r:.80} is no bytes")
    return value


def _encoded(value: object, _: object) -> bytes:
    """Of each text that base85 reads as the same bytes only one is what was saved."""
    data = b85decode(_text(value, str))
    if b85encode(data).decode() != value:
        raise ValueError(f"{value!r} is no base85")
    return data


JSON: Final = _text_converter()
_BYTES: Final = _byte_converter()
