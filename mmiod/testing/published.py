"""What a device lets the hypervisor do without a message: the promises about that.

The device is looked at through a page, as a hypervisor does, with each of its regions at a
place of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, Final

from attrs import define

from mmiod.device.policy import Count
from mmiod.machine.address_map import Claim
from mmiod.machine.published import VERSION, Page
from mmiod.machine.rows import Allowed, Kind, Row
from mmiod.machine.shelves import AFFECTED, BITS, MAX_ROWS, POLICY, RATE, ROW, SINCE, VALUE, Surroundings
from mmiod.testing.subject import NAME, Input, Subject, value
from mmiod.values import READ, WRITE, Space, ones

if TYPE_CHECKING:
    from mmiod.device import Region
    from mmiod.machine.host import InlineHost

APART: Final = 40
"""Regions begin at multiples of 2 to the power of this."""
SIZES: Final = (1, 2, 4, 8)


@define(eq=False)
class Seen(Page):
    """A page that counts what tells the guest to look, or moves what it looks at."""

    told: int = 0

    def withdraw(self, name: str) -> bool:
        """A line changes, a message leaves, something is asked of the hypervisor."""
        self.told += 1
        return Page.withdraw(self, name)

    def shows(self, host: InlineHost, region: Region) -> bool:
        """Any move is one."""
        self.told += 1
        return Page.shows(self, host, region)


@define(eq=False)
class Onlooker:
    """A subject and its page."""

    subject: Subject
    page: Seen
    regions: list[str]

    @classmethod
    def of(cls, subject: Subject) -> Onlooker:
        """Show all of a device."""
        host, machine = subject.host, subject.machine
        regions = list(subject.device.regions)
        claims = {
            (NAME, name): (Space.MMIO, Claim(host, name, number << APART, region.length))
            for number, (name, region) in enumerate(subject.device.regions.items())
        }
        words = memoryview(bytearray(8 * ROW * (1 + MAX_ROWS))).cast("Q")
        around = Surroundings(claims, machine.hosts)
        page = Seen(words, lambda: around, clock=machine.clock)
        machine.page = subject.around.page = page
        page.go()
        page.counters = True  # time passes when it is told to
        page.settle()
        onlooker = cls(subject, page, regions)
        subject.around.announced = onlooker.hears
        for line in subject.device.lines:
            machine.wires.connect(f"{NAME}.{line}", f"onlooker.{line}", lambda _level: onlooker.hears())
        return onlooker

    def hears(self) -> None:
        """The guest is told to look, by a line or a message: nothing of before is shown any more."""
        shelf = self.page.shelves.get(NAME)
        assert shelf is None or not shelf.open, "the guest is told to look, and is shown what was before"

    def rows(self, kind: Kind) -> list[Row]:
        """Those that are allowed now."""
        shelf = self.page.shelves.get(NAME)
        return (
            [] if shelf is None or not shelf.open else [row for row in shelf.rows if self.allows(row, kind)]
        )

    def allows(self, row: Row, kind: Kind) -> bool:
        """Whether a row of a kind lets something pass."""
        return row.kind is kind and self.page.words[row.place + POLICY] % VERSION != 0

    def shown(self, row: Row) -> int:
        """What a read gives by the page."""
        words, place = self.page.words, row.place
        if words[place + POLICY] & Allowed.COUNTER:
            count = Count(
                words[place + RATE], words[place + BITS], words[place + VALUE], words[place + SINCE]
            )
            return count.at(self.subject.machine.clock.now_ns)
        return words[place + VALUE]

    def place(self, row: Row) -> tuple[str, int]:
        """Region and offset."""
        return self.regions[row.address >> APART], row.address & (1 << APART) - 1

    def write(self, row: Row, written: int) -> None:
        """A posted write."""
        region, offset = self.place(row)
        self.subject.do(("access", (region, offset, row.size, WRITE, written)))

    def check_reads(self, given: Input) -> None:
        """Each read is what a message gives, and a message changes nothing."""
        subject = self.subject
        before, outputs = subject.host.snapshot(), subject.around.outputs
        for row, shown in [(row, self.shown(row)) for row in self.rows(Kind.READ)]:
            region, offset = self.place(row)
            for size in (size for size in SIZES if (row.least or row.size) <= size <= row.size):
                place = (region, offset, size)
                answer = subject.host.access(*place, READ, 0)
                assert shown & ones(size) == answer, f"{place} is not what is published, after {given}"
        assert before == subject.host.snapshot(), f"a published read changes the state, after {given}"
        assert outputs == subject.around.outputs, f"a published read does something, after {given}"

    def check_post(self, row: Row, written: int) -> None:
        """A posted write tells the guest nothing, and changes no row that does not wait for it."""
        unaffected = list(self._unaffected(row))
        before = [(self.page.words[each.place + POLICY] % VERSION, self.shown(each)) for each in unaffected]
        echoes = [(each, self.shown(each)) for each in self.rows(Kind.READ) if self._echoes(each, row)]
        told = self.page.told
        self.write(row, written)
        name = row.parts[0][1].name if row.parts else f"{self.place(row)}"
        what = f"{name} = {written:#x} is posted"
        assert told == self.page.told, f"{what}, and changes a line, places a region or asks for something"
        for each, (policy, shown) in zip(unaffected, before, strict=True):
            now = (self.page.words[each.place + POLICY] % VERSION, self.shown(each))
            same = now == (policy, shown) or (not policy and not now[0])
            assert same, f"{what}, and changes what is published at {self.place(each)}, which does not wait"
        for each, shown in echoes:
            left = written & each.echo | shown & ~each.echo
            assert left == self.shown(each), f"{what}, and is not what is echoed"

    @staticmethod
    def _echoes(row: Row, written: Row) -> bool:
        return bool(row.echo) and (row.address, row.size) == (written.address, written.size)

    def _unaffected(self, written: Row) -> Iterator[Row]:
        shelf = self.page.shelves[NAME]
        number = (written.place // ROW - 1) - shelf.first - 1
        for row in shelf.rows:
            if not self.page.words[row.place + AFFECTED] >> number & 1 and row.kind in {
                Kind.READ,
                Kind.WRITE,
            }:
                yield row


def check_published(subject: Subject, given: list[Input]) -> None:
    """Look after each input whether what is published is what would be answered."""
    onlooker = Onlooker.of(subject)
    if NAME in onlooker.page.shelves:
        for each in given:
            subject.do(each)
            onlooker.check_reads(each)


def check_posted(subject: Subject, given: list[Input]) -> None:
    """Post whatever may be posted, after each input."""
    onlooker, random = Onlooker.of(subject), Random(5)  # noqa: S311  # the same each time, on purpose
    for each in given if NAME in onlooker.page.shelves else ():
        subject.do(each)
        posted = onlooker.rows(Kind.WRITE)
        random.shuffle(posted)  # what comes behind the last one is compared as a whole
        for row in posted:
            if onlooker.allows(row, Kind.WRITE):  # not taken back by the one before
                onlooker.check_post(row, value(random, row.size))
        if posted:
            onlooker.check_reads(("posted", ()))
