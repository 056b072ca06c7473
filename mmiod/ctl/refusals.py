"""What the daemon refuses, in words."""

from __future__ import annotations

import json
from typing import Final

from mmiod.ctl.client import Refused


def sentence(refused: Refused) -> str:
    """What is wrong, and what would be right."""
    name, parameters = refused.error.rpartition(".")[2], refused.parameters
    text = _SENTENCES.get(name)
    if text is None:
        return f"the daemon refused: {refused.error} {json.dumps(parameters)}"
    words = {name: _listed(value) for name, value in parameters.items()}
    place = ":".join(str(part) for part in (parameters.get("file"), parameters.get("line")) if part)
    given = refused.given.get(str(parameters.get("parameter")))
    return text.format_map({**words, "place": f"{place}: " if place else "", "given": json.dumps(given)})


def _listed(value: object) -> object:
    """A list as people write it."""
    return (", ".join(value) or "none") if isinstance(value, list) else value


_SENTENCES: Final = {
    "UnknownVm": "there is no VM {vm!r}; there are: {known}",
    "UnknownDevice": "there is no device {device!r}; there are: {known}",
    "AmbiguousDevice": "{device!r} is the name of several devices: {candidates}; say which, as VM/DEVICE",
    "UnknownPlugin": "{name!r} is neither a plugin nor a device; plugins: {known}; "
    "devices: as `mmioctl devices` shows",
    "ReloadRejected": "{plugin} stays as it is: {place}{reason}\n{remedy}",
    "UpgradeRejected": "the daemon is not upgraded, and serves on:\n{reason}",
    "InvalidFilter": "the filter cannot be read: {reason}",
    "UnknownRegister": "{device} has no register {register!r}; there are: {known}",
    "NotStopped": "nothing stands at {device}",
    "TooManyClients": "the daemon serves {limit} control clients already",
    "InvalidParameter": "{parameter}: the daemon does not take {given}",
}
