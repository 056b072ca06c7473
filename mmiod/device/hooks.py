"""Which method a declaration calls: its decorator runs in the class body that declares it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mmiod.errors import DeclarationError


class Named(Protocol):
    """A declaration; its class names it when its body has ended."""

    name: str


def name_of(declared: Named, hook: Callable[..., Any]) -> str:
    """The name of a hook, by which a subclass overrides it.

    Raises:
        DeclarationError: the declaration is that of a class which is done, and perhaps of its
            other subclasses: they would change with it.
    """
    if declared.name:
        raise DeclarationError(
            f"{hook.__name__} decorates {declared.name} of a class that is done; override the method that "
            f"it has for this, or declare {declared.name} again"
        )
    return hook.__name__
