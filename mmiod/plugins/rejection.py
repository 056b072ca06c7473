"""Why a reload was rejected, told once: the event, and what the caller gets."""

from __future__ import annotations

from typing import Final

import structlog

from mmiod.errors import PluginError
from mmiod.plugins.loader import LoadError
from mmiod.plugins.question import Rejected, Verdict

READ_FILE: Final = "see that the plugin's files are there and can be read"
SERVES: Final = "correct the plugin; the generation that serves was not touched"


def reject(plugin: str, generation: int, error: PluginError) -> Rejected:
    """Tell of it: `generation` serves on."""
    if isinstance(error, Rejected):
        verdict = error.verdict
    elif isinstance(error, LoadError):
        verdict = Verdict(error.reason, SERVES, error.file, error.line)
    else:
        verdict = Verdict(str(error), READ_FILE)
    structlog.get_logger().warning(
        "reload_rejected",
        plugin=plugin,
        generation=generation,
        file=verdict.file,
        line=verdict.line,
        reason=verdict.reason,
        remedy=verdict.remedy,
    )
    return Rejected(verdict)
