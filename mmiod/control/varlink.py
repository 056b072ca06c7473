"""The wire of varlink: JSON objects that end with a NUL byte, calls and replies.

Specification: varlink.org, "Method Call" and "Service Interface".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

import orjson
from attrs import frozen

from mmiod.errors import MmiodError

MAX_FRAME: Final = 1 << 16
"""Bytes of a call."""
SERVICE: Final = "org.varlink.service"

Object = Mapping[str, object]


class Malformed(MmiodError):
    """What a client sent is no call; its connection closes."""


class Failure(MmiodError):
    """A call fails: the reply names `error` and its `parameters`."""

    def __init__(self, error: str, **parameters: object) -> None:
        super().__init__(f"{error} {parameters}")
        self.error = error
        self.parameters = parameters


@frozen
class Call:
    """A method call; `more` asks for a stream of replies, `oneway` for none."""

    method: str
    parameters: Object
    more: bool = False
    oneway: bool = False


def parse_call(frame: bytes) -> Call:
    """Read a frame without its NUL.

    Raises:
        Malformed: it is no JSON object, or a member of the call has a wrong type.
    """
    try:
        message = orjson.loads(frame)
    except ValueError as error:
        raise Malformed(f"a call is a JSON object: {error}") from None
    if not isinstance(message, dict):
        raise Malformed(f"a call is a JSON object, not {type(message).__name__}")
    members = {"method": str, "parameters": dict, "more": bool, "oneway": bool}
    given = {name: value for name, value in message.items() if name in members and value is not None}
    for name, value in given.items():
        if not isinstance(value, members[name]):
            raise Malformed(f"{name} is {value!r}: {members[name].__name__} was expected")
    if "method" not in given:
        raise Malformed("a call without a method")
    if given.get("more") and given.get("oneway"):
        raise Malformed("a call with both more and oneway")
    return Call(**{"parameters": {}} | given)


def encode_reply(parameters: Object, *, continues: bool = False) -> bytes:
    """A reply's frame; `continues` if others follow."""
    return _frame({"parameters": parameters} | ({"continues": True} if continues else {}))


def encode_failure(failure: Failure) -> bytes:
    """The frame of an error."""
    return _frame({"error": failure.error, "parameters": failure.parameters})


def _frame(message: Object) -> bytes:
    # Not orjson: it takes no integer of more than 64 bits, and vector registers have more.
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\0"
