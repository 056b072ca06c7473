"""Size rules: how a region takes an access (QEMU docs/devel/memory.rst, "MMIO Operations")."""

from __future__ import annotations

from mmiod.device import Region


def split(region: Region, offset: int, size: int) -> list[tuple[int, int]] | None:
    """The (offset, size) pieces in which a region takes an access, low to high.

    None if it does not take it: a piece is smaller than the region's valid sizes.
    """
    low, high = region.valid
    most = min(high, region.implemented[1])
    whole = low <= size <= most and not size & (size - 1)
    if whole and (region.unaligned or not offset & (size - 1)):
        return [(offset, size)]
    pieces = []
    end = offset + size
    while offset < end:
        taken = min(end - offset, high)
        if not region.unaligned and offset:
            taken = min(taken, offset & -offset)
        taken = 1 << (taken.bit_length() - 1)
        if taken < low:
            return None
        step = min(taken, most)
        pieces += [(at, step) for at in range(offset, offset + taken, step)]
        offset += taken
    return pieces
