"""What tests of whole systems have in common."""

from __future__ import annotations

import pytest

from mmiod.core.ports import RequestQueue
from tests.functional.stock import Asked


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What images of a daemon in this process are asked for."""
    found, ask = Asked(), RequestQueue.ask

    def noted(queue: RequestQueue, number: int, kind: str, data: bytes) -> None:
        found.note(queue, kind)
        ask(queue, number, kind, data)

    monkeypatch.setattr(RequestQueue, "ask", noted)
    return found
