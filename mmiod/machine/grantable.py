"""What may stand in the hypervisor, so that the guest's access makes no exit: pages, and doorbells.

A *page* is 4096 bytes of guest memory that show registers as a read would: each where the guest
looks for it.  The guest reads it when it likes, behind no gate, so that its device must say that it
may (`Region.mapped`), each of its registers be published always, and the device one that
- has no interrupt lines and is no PCI function: what it says is never announced before it is shown;
- is written to by messages only, while its page may stand: a posted write would be overtaken.
It shows what the device is at the end of each of its inputs, and ones in quarantine.  The guest may
be reading it at any time: what is right stays as it is, and a page made anew is stored at once.

A *doorbell* is a write of one value to one address (`mmiod.device.doorbells`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from mmiod.device import Register
from mmiod.device.buffers import Buffer
from mmiod.device.dispatch import RegisterAnswerer
from mmiod.device.pci import PciFunction
from mmiod.machine.published import Page
from mmiod.machine.rows import Kind, Row
from mmiod.machine.shelves import MAX_ROWS, ROW, Surroundings
from mmiod.values import READ, Space

if TYPE_CHECKING:
    from mmiod.device import Device, Region
    from mmiod.machine.host import InlineHost

PAGE: Final = 4096
MAX_BELLS: Final = 64
"""Of one VM."""
_WORD: Final = 8
TABLE: Final = ROW * (1 + MAX_ROWS)
"""Words before the first page."""
_DARK: Final = b"\xff" * PAGE

Part = tuple[int, Register | Buffer, int]
"""Where it begins in the page, what is there, and in which copy of a region with a stride."""


class GrantKind(enum.IntEnum):
    """Numbers of the protocol's enum grant_kind."""

    PAGE = 0
    DOORBELL = 1


@frozen
class Grantable:
    """One page or doorbell; the `value` of a page is where it begins, in bytes from the table."""

    kind: GrantKind
    device: str
    space: Space
    address: int
    size: int
    value: int


@define
class Image:
    """A page as it is shown; two are equal if the same would be shown in the same place."""

    address: int
    begin: int
    """In bytes."""
    hole: int
    parts: tuple[Part, ...]
    shown: list[int] | None = field(default=None, eq=False)
    """What each part was drawn as; None: none of it is."""


@define(eq=False)
class GuestPage(Page):
    """A published page with images behind its table, for a client that takes grants."""

    changed: Callable[[], None] = field(kw_only=True)
    """Others may stand than before."""
    images: dict[str, list[Image]] = field(factory=dict)
    """By device."""
    bells: dict[Grantable, None] = field(factory=dict)
    """All there are, in order."""
    begun: bool = False
    """The machine has been on."""
    hosts: Mapping[str, InlineHost] = field(factory=dict)
    _places: dict[tuple[str, int], int] = field(factory=dict)
    """Which page of the memory is kept for which of the guest's."""
    _found: dict[tuple[str, str, int], tuple[type[Device], tuple[Part, ...] | None]] = field(factory=dict)
    """Parts of a device's page, and of which class: 4 ms each, and all are looked for after any move."""
    _bytes: memoryview = field(init=False)

    def __attrs_post_init__(self) -> None:
        """See the memory as bytes, too."""
        Page.__attrs_post_init__(self)
        self._bytes = self.words.cast("B")

    def grantable(self) -> Iterator[Grantable]:
        """What may stand, as things were when nothing moved; a guest that pauses keeps what it has."""
        if not self.begun:
            return
        for device, images in self.images.items():
            for image in images if device not in self.withheld else ():
                yield Grantable(GrantKind.PAGE, device, Space.MMIO, image.address, PAGE, image.begin)
        yield from (bell for bell in islice(self.bells, MAX_BELLS) if bell.device not in self.withheld)

    def shows(self, host: InlineHost, region: Region) -> bool:
        """Rows, or what may stand."""
        bells = {bell.region for bell in host.device.doorbell_writes()}
        return region.mapped or region.name in bells or Page.shows(self, host, region)

    def go(self) -> None:
        """From now on something may stand."""
        self.begun = True
        Page.go(self)

    def settle(self) -> None:
        """Make the table right, and what is drawn with it."""
        Page.settle(self)
        self._offer()

    def _settle_moved(self, name: str) -> None:
        Page._settle_moved(self, name)  # noqa: SLF001
        self._offer()

    def _offer(self) -> None:
        """Others may stand; each page shows its device by then."""
        for name in self.images:
            self._paint(name)
        self.changed()

    def enter(self) -> None:
        """Find what may stand where things are now."""
        around = self.around()
        self.hosts = around.hosts
        self.images = {name: found for name in around.hosts if (found := self._images(around, name))}
        self.bells = dict.fromkeys(bell for name in around.hosts for bell in _bells_of(around, name))
        Page.enter(self)

    def look(self, name: str) -> None:
        """A device's input is over."""
        Page.look(self, name)
        if name in self.images:
            self._paint(name)

    def _paint(self, name: str) -> None:
        """Show a device as it is now."""
        host = self.hosts[name]
        if host.serves:
            host.guarded(self._draw, None, self.images[name], host.device)
        else:
            self.blank(name)

    def blank(self, name: str) -> None:
        """A device is out of service: all of its pages reads ones."""
        for image in self.images.get(name, ()):
            self._bytes[image.begin : image.begin + PAGE] = _DARK
            image.shown = None

    def _draw(self, images: list[Image], device: Device) -> None:
        """Show what has changed; raises whatever the device's getters raise."""
        for image in images:
            if image.shown is None:
                self._compose(image, device)
            else:
                self._redraw(image, image.shown, device)

    def _compose(self, image: Image, device: Device) -> None:
        """A page that shows nothing of it yet, made elsewhere."""
        page = bytearray([image.hole]) * PAGE
        shown = list[int]()
        for at, part, copy in image.parts:
            value = _seen(device, part, copy)
            shown.append(value)
            page[at : at + part.size] = value.to_bytes(part.size, "little")
        self._bytes[image.begin : image.begin + PAGE] = page
        image.shown = shown

    def _redraw(self, image: Image, shown: list[int], device: Device) -> None:
        for number, (at, part, copy) in enumerate(image.parts):
            value = _seen(device, part, copy)
            if value != shown[number]:
                shown[number] = value
                begin = image.begin + at
                self._bytes[begin : begin + part.size] = value.to_bytes(part.size, "little")

    def _rows(self, around: Surroundings, name: str) -> list[Row]:
        """Nothing is posted to a device whose page the guest may read."""
        rows = Page._rows(self, around, name)  # noqa: SLF001
        return [row for row in rows if row.kind is not Kind.WRITE] if name in self.images else rows

    # --- which pages -----------------------------------------------------------------------

    def _images(self, around: Surroundings, name: str) -> list[Image]:
        host = around.hosts[name]
        device = host.device
        if host.isolated or device.outputs or isinstance(device, PciFunction):
            return []
        known = {image.begin: image for image in self.images.get(name, ())}
        found = [
            Image(address, begin, hole, parts)
            for address, hole, parts in self._pages(device, name, around)
            if (begin := self._place(name, address)) is not None
        ]
        return [known[one.begin] if known.get(one.begin) == one else one for one in found]

    def _pages(
        self, device: Device, name: str, around: Surroundings
    ) -> Iterator[tuple[int, int, tuple[Part, ...]]]:
        """Guest address, what holes read, and parts of each page that may be shown."""
        for (owner, known), (space, claim) in around.claims.items():
            if owner != name or space is not Space.MMIO or not claim.fixed or claim.base % PAGE:
                continue
            region = device.regions[known]
            if not region.mapped or region.valid[0] > 1:
                continue
            for offset in range(0, region.length - PAGE + 1, PAGE):
                parts = self._parts(name, type(device), known, offset)
                if parts is not None:
                    yield claim.base + offset, region.hole, parts

    def _parts(self, name: str, plugin: type[Device], region: str, begin: int) -> tuple[Part, ...] | None:
        key = name, region, begin
        if key not in self._found or self._found[key][0] is not plugin:
            self._found[key] = plugin, _parts(plugin, region, begin)
        return self._found[key][1]

    def _place(self, name: str, address: int) -> int | None:
        """A page of the memory, always the same one; None if there is none left."""
        begin = self._places.get((name, address), TABLE * _WORD + PAGE * len(self._places))
        if begin + PAGE > len(self._bytes):
            return None
        return self._places.setdefault((name, address), begin)


def _seen(device: Device, part: Register | Buffer, copy: int) -> int:
    device.copy = copy
    return part.seen(device) if isinstance(part, Register) else part.guest_read(device)


def _parts(plugin: type[Device], region: str, begin: int) -> tuple[Part, ...] | None:
    """What a page shows, in the order of `Region.mapped`; None if a read of any of it has to be asked for."""
    answerer = plugin.answerers[region]
    if not isinstance(answerer, RegisterAnswerer):
        return None
    found: dict[tuple[int, int], Part] = {}
    stride = answerer.region.stride or answerer.region.length
    for offset in range(begin, begin + PAGE):
        copy, within = divmod(offset, stride)
        for part in answerer.candidates(within, READ):
            at = copy * stride + part.offset - begin
            if not isinstance(part, Register | Buffer) or not _shows(part) or not 0 <= at <= PAGE - part.size:
                return None
            found[copy, part.offset] = at, part, copy
    order = list(plugin.declared.values())
    return tuple(sorted(found.values(), key=lambda part: order.index(part[1]) if part[1] in order else -1))


def _shows(part: Register | Buffer) -> bool:
    """Whether a read has no effect, and gives what the device holds, always."""
    if part.when is not None or part.whole or part.published is not True:
        return False
    return isinstance(part, Buffer) or (part.counter is None and not part.reads_change)


def _bells_of(around: Surroundings, name: str) -> Iterator[Grantable]:
    host = around.hosts[name]
    for bell in () if host.isolated else host.device.doorbell_writes():
        placed = around.claims.get((name, bell.region))
        if placed is not None and placed[0] in {Space.MMIO, Space.PIO}:
            space, claim = placed
            yield Grantable(GrantKind.DOORBELL, name, space, claim.base + bell.offset, bell.size, bell.value)
