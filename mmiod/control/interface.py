"""An interface as a table of commands, and its description in varlink's language.

The description that clients introspect is written from the same attrs classes that
cattrs structures requests with, so the two cannot disagree.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import attrs
import cattrs
from attrs import field, frozen
from cattrs.gen import make_dict_structure_fn

from mmiod.control.varlink import SERVICE, Failure, Object

Handler = Callable[..., Any]
"""`handler(request)` gives the reply, perhaps awaited; that of a streaming command gives a `Stream`."""


class Stream(Protocol):
    """What answers a streaming command: it is asked again and again, and never waits."""

    def __call__(self) -> Sequence[attrs.AttrsInstance]:
        """The replies that have become due since the last call."""

    async def ready(self) -> None:
        """Wait until it is as the first reply says."""

    @property
    def behind(self) -> bool:
        """Whether there is more to look at already."""

    def close(self) -> None:
        """Nobody asks any more."""


@frozen
class Command:
    """A method: its name, the attrs classes of request and reply, and what answers it."""

    name: str
    request: type[attrs.AttrsInstance]
    reply: type[attrs.AttrsInstance]
    handler: Handler
    doc: str | None
    streams: bool = False


@frozen
class Interface:
    """Commands under one name; `errors` are attrs classes too."""

    name: str
    doc: str
    commands: tuple[Command, ...]
    errors: tuple[type[attrs.AttrsInstance], ...] = ()
    methods: Mapping[str, Command] = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Index the commands."""
        object.__setattr__(self, "methods", {command.name: command for command in self.commands})

    def describe(self) -> str:
        """The interface in varlink's interface definition language."""
        parts = [f"{_comment(self.doc)}interface {self.name}\n"]
        named: dict[str, type[attrs.AttrsInstance]] = {}
        for command in self.commands:
            for cls in (command.request, command.reply):
                named |= {found.__name__: found for found in _nested(cls)}
        parts += [f"{_comment(cls.__doc__)}type {name} {_struct(cls)}\n" for name, cls in named.items()]
        parts += [
            f"{_comment(_explanation(command))}method {command.name}{_struct(command.request, wrap=False)}"
            f" -> {_struct(command.reply)}\n"
            for command in self.commands
        ]
        parts += [f"{_comment(cls.__doc__)}error {cls.__name__} {_struct(cls)}\n" for cls in self.errors]
        return "\n".join(parts)


def fail(interface: str, error: attrs.AttrsInstance) -> Failure:
    """The failure that an instance of one of an interface's error classes describes."""
    return Failure(f"{interface}.{type(error).__name__}", **CONVERTER.unstructure(error))


# --- the interface definition language -----------------------------------------------

_PRIMITIVES: Final = {str: "string", int: "int", bool: "bool", float: "float"}


def _explanation(command: Command) -> str:
    """What a method does, takes and gives."""
    texts = (command.doc, command.request.__doc__, command.reply.__doc__)
    return "\n".join(inspect.cleandoc(text) for text in texts if text)


def _comment(doc: str | None) -> str:
    """A docstring as comment lines."""
    return "".join(f"# {line}".rstrip() + "\n" for line in inspect.cleandoc(doc or "").splitlines())


def _struct(cls: type[attrs.AttrsInstance], *, wrap: bool = True) -> str:
    members = [f"{name}: {_type(kind)}" for name, kind in _members(cls)]
    if len(members) < 3 or not wrap:
        return f"({', '.join(members)})"
    return "(\n  " + ",\n  ".join(members) + "\n)"


def _members(cls: type[attrs.AttrsInstance]) -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(cls)
    return ((member.name, hints[member.name]) for member in attrs.fields(cls))


def _type(kind: Any) -> str:  # noqa: ANN401  # annotations have no common type
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        (inner,) = (argument for argument in arguments if argument is not types.NoneType)
        return f"?{_type(inner)}"
    if origin is list:
        return f"[]{_type(arguments[0])}"
    if origin is dict:
        return f"[string]{_type(arguments[1])}"
    return _PRIMITIVES.get(kind) or str(kind.__name__)


def _nested(cls: type[attrs.AttrsInstance]) -> Iterator[type[attrs.AttrsInstance]]:
    """The attrs classes that a class's members hold, inner ones first."""
    for _, kind in _members(cls):
        for part in _parts(kind):
            if attrs.has(part):
                yield from _nested(part)
                yield part


def _parts(kind: Any) -> Iterator[Any]:  # noqa: ANN401
    arguments = typing.get_args(kind)
    if not arguments:
        yield kind
    for argument in arguments:
        yield from _parts(argument)


# --- requests and replies ------------------------------------------------------------


def _converter() -> cattrs.Converter:
    """Takes exactly what a class declares."""
    converter = cattrs.Converter()
    for primitive in _PRIMITIVES:
        converter.register_structure_hook(primitive, _exactly)
    converter.register_structure_hook_factory(
        attrs.has, lambda cls: make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True)
    )
    return converter


def _exactly(value: object, kind: type) -> object:
    """No coercion: JSON has types of its own, and true is no int."""
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


CONVERTER: Final = _converter()


def structure(cls: type[attrs.AttrsInstance], parameters: Object) -> attrs.AttrsInstance:
    """Make a request of a call's parameters.

    Raises:
        Failure: org.varlink.service.InvalidParameter with the parameter's name.
    """
    try:
        return CONVERTER.structure(parameters, cls)
    except cattrs.ClassValidationError as error:
        raise Failure(f"{SERVICE}.InvalidParameter", parameter=_culprit(error)) from None


def _culprit(error: cattrs.ClassValidationError) -> str:
    """The first parameter that is wrong."""
    noted, others = error.group_exceptions()
    if noted:
        return noted[0][1].name
    (extra,) = (other for other in others if isinstance(other, cattrs.ForbiddenExtraKeysError))
    return min(extra.extra_fields)
