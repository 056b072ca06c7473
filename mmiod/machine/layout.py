"""Which region is where, and who answers an address: the maps of all spaces, while regions move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from attrs import define, field

from mmiod.machine.address_map import LENGTHS, AddressMap, Claim, Policy, Range, Stretch, Unclaimed, build
from mmiod.values import Space

Key = tuple[str, str]
"""Device and region."""
Placed = tuple[Space, Claim]
Edit = Callable[[AddressMap, Claim], AddressMap | None]


@define(eq=False)
class Layout:
    """One machine's.

    A map that cannot be edited is built anew at the next access: a config write moves several BARs.
    """

    claims: dict[Key, Placed] = field(factory=dict)
    unclaimed: dict[Space, list[Unclaimed]] = field(factory=dict)
    _maps: dict[Space, AddressMap] = field(factory=dict)

    def table(self, space: Space) -> AddressMap:
        """The map of a space as it is now."""
        table = self._maps.get(space)
        if table is None:
            claims = [claim for at, claim in self.claims.values() if at == space]
            table = self._maps[space] = build(space, claims, self.unclaimed.get(space, ()))
        return table

    def move(self, key: Key, placed: Placed | None) -> list[Stretch]:
        """Take a region off the map and put it elsewhere (None: nowhere); what others may answer now."""
        moved = list[Stretch]()
        known = self.claims.pop(key, None)
        if known is not None:
            moved.append(self._edit(known, AddressMap.without))
        if placed is not None:
            self.claims[key] = placed
            moved.append(self._edit(placed, AddressMap.within))
        return moved

    def _edit(self, placed: Placed, edited: Edit) -> Stretch:
        space, claim = placed
        table = self._maps.pop(space, None)
        after = None if table is None else edited(table, claim)
        if after is not None:
            self._maps[space] = after
        return Stretch(space, claim.base, claim.end)

    def replace(self, claims: dict[Key, Placed]) -> None:
        """Other claims in the place of all; they were checked."""
        self.claims = claims
        self._maps.clear()

    # --- what is published of it -------------------------------------------------------------

    def overlapping(self, moved: Iterable[Stretch]) -> set[str]:
        """Devices of which a part may have been hidden by a move, or may have come to light."""
        return {
            device
            for at in moved
            if at.space not in self._maps
            for (device, _), (space, claim) in self.claims.items()
            if space == at.space and claim.base < at.end and at.start < claim.end
        }

    def ignored(self, moved: Stretch) -> bool:
        """Whether it is known, of a part of it, that nobody need hear of an access if nobody claims it."""
        return any(
            known.policy is Policy.IGNORE and known.base < moved.end and moved.start < known.end
            for known in self.unclaimed.get(moved.space, ())
        )

    def whole(self) -> dict[Key, Placed]:
        """The claims of which all is there."""
        crowded = {space for space in LENGTHS if self.table(space).crowded}
        if not crowded:
            return self.claims
        return {
            key: placed
            for key, placed in self.claims.items()
            if placed[0] not in crowded or self._is_whole(*placed)
        }

    def _is_whole(self, space: Space, claim: Claim) -> bool:
        found = self.table(space).find(claim.base)
        return found.claim is claim and (found.start, found.end) == (claim.base, claim.end)

    def idle(self) -> Iterator[Range]:
        """Ranges that nobody claims."""
        for space in LENGTHS:
            for found in self.table(space).ranges:
                if found.claim is None:
                    yield found
