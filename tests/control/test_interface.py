"""Interface definitions, and requests by them."""

from __future__ import annotations

import pytest
from attrs import field, frozen

from mmiod.control.interface import Command, Interface, fail, structure
from mmiod.control.varlink import Failure


@frozen
class Inner:
    """A part."""

    flag: bool


@frozen
class Asked:
    """A question."""

    name: str
    count: int = 1
    parts: list[Inner] = field(factory=list)
    table: dict[str, int] | None = None


@frozen
class Told:
    """An answer."""

    outer: list[dict[str, Inner | None]]


@frozen
class Lost:
    """It is not there."""

    where: str


SAMPLE = Interface(
    "io.sample", "A sample.\n\nIn two paragraphs.", (Command("Ask", Asked, Told, print, "Asks."),), (Lost,)
)


def test_description_is_written_from_the_classes() -> None:
    """Types are nested ones first, once each; docstrings become comments."""
    expected = """\
# A sample.
#
# In two paragraphs.
interface io.sample

# A part.
type Inner (flag: bool)

# Asks.
# A question.
# An answer.
method Ask(name: string, count: int, parts: []Inner, table: ?[string]int) -> (outer: [][string]?Inner)

# It is not there.
error Lost (where: string)
"""
    assert expected == SAMPLE.describe()


def test_request_is_structured() -> None:
    """Defaults fill in, nested objects become attrs objects."""
    expected = Asked("x", 1, [Inner(flag=True)], {"a": 2})

    assert expected == structure(Asked, {"name": "x", "parts": [{"flag": True}], "table": {"a": 2}})


@pytest.mark.parametrize(
    ("parameters", "culprit"),
    [
        ({}, "name"),
        ({"name": 3}, "name"),
        ({"name": None}, "name"),
        ({"name": "x", "count": True}, "count"),
        ({"name": "x", "count": 1.0}, "count"),
        ({"name": "x", "count": "1"}, "count"),
        ({"name": "x", "parts": [{"flag": 1}]}, "parts"),
        ({"name": "x", "parts": [{"flag": True, "more": 1}]}, "parts"),
        ({"name": "x", "parts": 3}, "parts"),
        ({"name": "x", "table": {"a": "b"}}, "table"),
        ({"name": "x", "table": []}, "table"),
        ({"name": "x", "nam": "x"}, "nam"),
    ],
)
def test_wrong_parameter_is_named(parameters: dict[str, object], culprit: str) -> None:
    """Missing, unknown and mistyped parameters are refused by name; nothing is coerced."""
    with pytest.raises(Failure) as caught:
        structure(Asked, parameters)

    assert ("org.varlink.service.InvalidParameter", {"parameter": culprit}) == (
        caught.value.error,
        caught.value.parameters,
    )


def test_failure_is_named_by_its_class() -> None:
    """An error class of an interface becomes the error's name."""
    failure = fail("io.sample", Lost("here"))

    assert ("io.sample.Lost", {"where": "here"}) == (failure.error, failure.parameters)
