"""Where the files are that come with mmiod."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def shipped(folder: str) -> Path:
    """`config`, `devices`, `include` or `systemd`: inside the package once installed, else beside it."""
    installed = PACKAGE / "bundled" / folder
    return installed if installed.is_dir() else PACKAGE.parent / folder
