from __future__ import annotations

import pytest

from tests import parts

GHOST = parts.Part("ghost", "ghost-bin", "tests of ghosts", "false")


@pytest.fixture(autouse=True)
def ghost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that no machine has."""
    monkeypatch.setitem(parts.parts(), "ghost", GHOST)


@pytest.mark.parametrize("wanted", ["", "seabios", "ghost-bin"])
def test_missing_part_skips(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """A part that MMIOD_REQUIRE does not name may be missing; the reason names the package."""
    monkeypatch.setenv("MMIOD_REQUIRE", wanted)

    with pytest.raises(pytest.skip.Exception, match="ghost is missing; Debian packages: ghost-bin"):
        parts.need("ghost")


@pytest.mark.parametrize("wanted", ["ghost", "all", "seabios,ghost"])
def test_required_part_fails(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """A part that MMIOD_REQUIRE names must be there."""
    monkeypatch.setenv("MMIOD_REQUIRE", wanted)

    with pytest.raises(pytest.fail.Exception, match="ghost is missing"):
        parts.need("ghost")


def test_all_does_not_ask_for_what_nobody_can_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that belongs to the machine skips under `all`, and fails where it is named."""
    monkeypatch.setitem(parts.parts(), "ghost", parts.Part("ghost", "(machine)", "tests of ghosts", "false"))
    monkeypatch.setenv("MMIOD_REQUIRE", "all")
    with pytest.raises(pytest.skip.Exception):
        parts.need("ghost")
    monkeypatch.setenv("MMIOD_REQUIRE", "all,ghost")
    with pytest.raises(pytest.fail.Exception):
        parts.need("ghost")


def test_present_part_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part whose probe succeeds is neither skipped nor failed."""
    monkeypatch.setitem(parts.parts(), "ghost", parts.Part("ghost", "", "", "true"))

    parts.need("ghost")


def test_unknown_part_is_an_error() -> None:
    """A misspelt part is no reason to skip."""
    with pytest.raises(KeyError, match="sebios"):
        parts.need("sebios")
