"""What `mmiod demo` says when it goes wrong; `make demo` shows the rest."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from mmiod.demo import boot


@pytest.mark.parametrize("as_json", [False, True], ids=["people", "programs"])
def test_demo_ends_with_its_hypervisor(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    """And says how that ended, instead of waiting for a firmware that is not there any more."""

    def fails(stack: ExitStack, *_guest: object) -> boot.Process:
        return boot.spawn(stack, ["-c", "raise SystemExit(3)"])

    monkeypatch.setattr(boot, "start_hypervisor", fails)

    assert 1 == boot.run(memory_mib=16, as_json=as_json)

    said = capfd.readouterr().out
    assert as_json or "The hypervisor ended with status 3 before the firmware did." in said
    assert not as_json or '"finished": false' in said
