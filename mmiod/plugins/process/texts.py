"""A saved device as text: what a worker and its host hand each other."""

from __future__ import annotations

import json

import attrs

from mmiod.device import Device
from mmiod.device.saved import Saved
from mmiod.errors import RestoreError
from mmiod.machine.plain import JSON, byte_form, structure, text_form
from mmiod.machine.snapshot import take


def prepare(plugin: type[Device]) -> None:
    """Compile what all of this needs, before there is a deadline."""
    state = byte_form(plugin).unstructure(plugin.state_class())
    from_text(plugin, as_text(plugin, Saved(plugin.schema, {}, state, {}, {}, {}, {})))


def to_text(device: Device) -> str:
    """What a device is now."""
    return as_text(type(device), take(device))


def as_text(plugin: type[Device], saved: Saved) -> str:
    """A saved device."""
    state = structure(byte_form(plugin), saved.state, plugin.state_class, "state")
    fields = attrs.asdict(saved, recurse=False) | {"state": text_form(plugin).unstructure(state)}
    return json.dumps(fields)


def from_text(plugin: type[Device], text: object) -> Saved:
    """The same again, checked.

    Raises:
        RestoreError: it is no saved device, or not of this class.
    """
    try:
        fields = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError) as error:
        raise RestoreError(f"no JSON: {error}") from error
    saved = structure(JSON, fields, Saved, "")
    state = structure(text_form(plugin), saved.state, plugin.state_class, "state")
    saved.state = byte_form(plugin).unstructure(state)
    return saved
