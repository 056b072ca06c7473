from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmiod.protocol.exit.document import filled, named
from mmiod.protocol.exit.table import LAYOUTS, NUMBERS

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
TEXT = DOCUMENT.read_text()


def test_tables_are_current() -> None:
    """The tables in the document are those that the table gives."""
    assert filled(TEXT) == TEXT, "python -m mmiod.protocol.exit.document docs/protocol.md"


def test_document_has_every_structure_and_number() -> None:
    """A client can be written from the document alone: nothing of the table is left out."""
    assert LAYOUTS.keys() | NUMBERS.keys() == named(TEXT)


def test_links_within_the_document_lead_somewhere() -> None:
    """Every #anchor is a heading."""
    headings = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }

    assert set() == set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) - headings


def test_a_marker_replaces_what_it_names_and_nothing_else() -> None:
    """Text around the markers stays; what stood between them goes."""
    text = "before\n<!-- table EXIT_TICK -->\nold\n<!-- end -->\nafter\n"

    assert (
        "before\n<!-- table EXIT_TICK -->\n\n"
        "**EXIT_TICK** (19), to the daemon, 32 bytes: "
        "virtual time has reached the deadline; completed at once\n\n"
        "| offset | type | field | |\n|---:|---|---|---|\n"
        "| 0 | header | header | type 19 |\n| 8 | exit | exit |  |\n\n"
        "<!-- end -->\nafter\n"
    ) == filled(text)


def test_a_marker_that_names_nothing_is_an_error() -> None:
    """A misspelt name does not leave a stale table behind."""
    with pytest.raises(KeyError, match="EXIT_TOCK"):
        filled("<!-- table EXIT_TOCK -->\n<!-- end -->\n")
