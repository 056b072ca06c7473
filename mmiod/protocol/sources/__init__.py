"""Exit sources: what hypervisors and guests lay out themselves, to exits and back.  See docs/sources.md."""

from __future__ import annotations

from typing import Final

from mmiod.protocol.exit import NUMBERS
from mmiod.protocol.sources import acrn, bhyve, ghcb, hyperv, kvm, svm, td_l2, tdvmcall, xen
from mmiod.protocol.sources.source import Memory, Settled, Source, read

_BY_NAME: Final[dict[str, Source]] = {
    "GHCB": ghcb,
    "SVM": svm,
    "TDVMCALL": tdvmcall,
    "TD_L2": td_l2,
    "KVM": kvm,
    "HYPERV": hyperv,
    "XEN": xen,
    "ACRN": acrn,
    "BHYVE": bhyve,
}
SOURCES: Final = {NUMBERS["source"][name]: source for name, source in _BY_NAME.items()}
"""By the number that HELLO names them by."""

__all__ = ["SOURCES", "Memory", "Settled", "Source", "read"]
