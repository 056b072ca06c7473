"""From an access within a region to the registers it covers.

Built once per class and region.  An access is taken apart at register boundaries, low
to high; every register that it touches is read or written once, as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from attrs import define, field

from mmiod.device.buffers import Buffer
from mmiod.device.faces import PENDING, Pending
from mmiod.device.storage import Storage
from mmiod.errors import DeclarationError
from mmiod.values import READ, WRITE, Direction, ones

if TYPE_CHECKING:
    from mmiod.device.declarations import Region
    from mmiod.device.device import Device
    from mmiod.device.fifo import Fifo
    from mmiod.device.registers import Register

    Claimant: TypeAlias = Register | Buffer | Fifo | Storage

_PART: Final = 1
"""The size by which an access that is taken apart asks: it meets no `whole` register."""


class Answerer(Protocol):
    """What answers the accesses of one region; `offset` and `size` are within it."""

    def read(self, device: Device, offset: int, size: int) -> int | Pending:
        """Answer a read."""

    def write(self, device: Device, offset: int, size: int, value: int) -> Pending | None:
        """Take a write."""

    def read_batch(self, device: Device, offset: int, size: int, count: int, stride: int) -> bytes:
        """As many of `count` reads as the device answers at once."""

    def write_batch(self, device: Device, offset: int, size: int, data: bytes, stride: int) -> int:
        """As many writes of `size` bytes as the device takes at once: their number."""

    def answers(self, device: Device, offset: int, size: int, direction: Direction, value: int) -> bool:
        """Whether a register allows this access as a whole."""

    def at(self, device: Device, offset: int, direction: Direction, size: int = 0) -> Claimant | None:
        """The register that an access at `offset` meets first, for the record; 0 is any size."""


@define
class HookAnswerer:
    """A region that two methods of the device answer, by their names."""

    reader: str
    writer: str
    batch_reader: str | None = None
    batch_writer: str | None = None

    def read(self, device: Device, offset: int, size: int) -> int | Pending:
        """Call the device's method."""
        answer: int | Pending = getattr(device, self.reader)(offset, size)
        return answer

    def write(self, device: Device, offset: int, size: int, value: int) -> Pending | None:
        """Call the device's method."""
        answer: Pending | None = getattr(device, self.writer)(offset, size, value)
        return answer

    def read_batch(self, device: Device, offset: int, size: int, count: int, stride: int) -> bytes:
        """Call the device's method, if it has one."""
        if self.batch_reader is None:
            return b""
        data: bytes = getattr(device, self.batch_reader)(offset, size, count, stride)
        return data

    def write_batch(self, device: Device, offset: int, size: int, data: bytes, stride: int) -> int:
        """Call the device's method, if it has one."""
        if self.batch_writer is None:
            return 0
        taken: int | None = getattr(device, self.batch_writer)(offset, size, data, stride)
        return len(data) // size if taken is None else taken

    def answers(self, device: Device, offset: int, size: int, direction: Direction, value: int) -> bool:  # noqa: ARG002
        """Hooks answer everything."""
        return True

    def at(self, device: Device, offset: int, direction: Direction, size: int = 0) -> Claimant | None:  # noqa: ARG002
        """A region without registers has no names."""
        return None


@define
class RegisterAnswerer:
    """A region of declared registers; `reads` and `writes` hold the candidates per byte."""

    region: Region
    reads: dict[int, tuple[Claimant, ...]] = field(factory=dict)
    writes: dict[int, tuple[Claimant, ...]] = field(factory=dict)
    storages: list[Storage] = field(factory=list)
    """They have too many bytes for these tables."""

    def add(self, register: Claimant) -> None:
        """Enter a register; two that claim a byte in one direction need banks."""
        length = self.region.stride or self.region.length
        if register.end > length:
            raise DeclarationError(
                f"{register.name} at {register.offset:#x}..{register.end - 1:#x} is outside region "
                f"{self.region.name} of {length:#x} bytes"
            )
        if isinstance(register, Storage):
            self._add_storage(register)
            return
        for direction, table in ((READ, self.reads), (WRITE, self.writes)):
            if not register.allows(direction):
                continue
            for offset in range(register.offset, register.end):
                others = table.get(offset, ())
                _refuse_clash(register, others, direction)
                table[offset] = tuple(sorted((*others, register), key=lambda known: not known.whole))

    def _add_storage(self, storage: Storage) -> None:
        """Enter storage, behind all else: it shares its bytes with nobody."""
        if self.region.stride or self.region.published:
            raise DeclarationError(f"{storage.name}: region {self.region.name} has copies, or is published")
        others = [
            register for table in (self.reads, self.writes) for found in table.values() for register in found
        ]
        for other in (*others, *self.storages):
            if other.offset < storage.end and storage.offset < other.end:
                raise DeclarationError(f"{storage.name} and {other.name} overlap; move one")
        self.storages.append(storage)

    def at(self, device: Device, offset: int, direction: Direction, size: int = 0) -> Claimant | None:
        """The register that an access meets first, in the bank that is selected now; 0 is any size."""
        return self._at(device, self._enter(device, offset), direction, size)

    def candidates(self, offset: int, direction: Direction) -> tuple[Claimant, ...]:
        """Those that an access may meet first, whatever the bank."""
        if self.region.stride:
            offset %= self.region.stride
        found = (self.writes if direction else self.reads).get(offset, ())
        return found or tuple(each for each in self.storages if each.offset <= offset < each.end)

    def _enter(self, device: Device, offset: int) -> int:
        """The offset within the copy of the registers that is meant."""
        if self.region.stride:
            device.copy, offset = divmod(offset, self.region.stride)
        return offset

    def _at(self, device: Device, offset: int, direction: Direction, size: int) -> Claimant | None:
        for register in (self.writes if direction else self.reads).get(offset, ()):
            if register.whole and (offset != register.offset or size not in {0, register.size}):
                continue
            if register.when is None or register.when(device):
                return register
        for storage in self.storages:
            if storage.offset <= offset < storage.end:
                return storage
        return None

    def read(self, device: Device, offset: int, size: int) -> int | Pending:
        """Compose a read from the registers it covers."""
        offset = self._enter(device, offset)
        register = self._at(device, offset, READ, size)
        if register is not None and register.offset == offset and register.size == size:
            return register.guest_read(device)
        value, position, end = 0, offset, offset + size
        while position < end:
            register = self._at(device, position, READ, _PART)
            if register is None:
                part, taken = self.region.hole, 1
            else:
                taken = min(register.end, end) - position
                part = register.read_part(device, position - register.offset, taken)
            value |= part << 8 * (position - offset)
            position += taken
        return value

    def write(self, device: Device, offset: int, size: int, value: int) -> Pending | None:
        """Spread a write over the registers it covers."""
        offset = self._enter(device, offset)
        register = self._at(device, offset, WRITE, size)
        if register is not None and register.offset == offset and register.size == size:
            return register.guest_write(device, value, ones(size))
        answer, position, end = None, offset, offset + size
        while position < end:
            register = self._at(device, position, WRITE, _PART)
            if register is None:
                position += 1
                continue
            taken = min(register.end, end) - position
            part = value >> 8 * (position - offset) & ones(taken)
            answer = register.write_part(device, position - register.offset, taken, part)
            position += taken
            if answer is PENDING and position < end:
                raise TypeError(f"{register.name} answered PENDING to a write that goes on behind it")
        return answer

    def read_batch(self, device: Device, offset: int, size: int, count: int, stride: int) -> bytes:
        """Ask the register that all of the reads meet."""
        register = self._met(device, offset, size, stride, READ)
        return b"" if register is None else register.read_many(device, count)

    def write_batch(self, device: Device, offset: int, size: int, data: bytes, stride: int) -> int:
        """Hand the elements to the register that all of the writes meet."""
        register = self._met(device, offset, size, stride, WRITE)
        return 0 if register is None else register.write_many(device, data)

    def answers(self, device: Device, offset: int, size: int, direction: Direction, value: int) -> bool:
        """A register of that offset and size that is read, or whose bits `value` all are."""
        register = self._met(device, offset, size, 0, direction)
        return register is not None and not (direction and value & ~register.implemented)

    def _met(
        self, device: Device, offset: int, size: int, stride: int, direction: Direction
    ) -> Register | Fifo | None:
        """The register that each element meets, as a whole."""
        offset = self._enter(device, offset)
        register = self._at(device, offset, direction, size)
        if stride or register is None or isinstance(register, Buffer | Storage):
            return None
        return register if (register.offset, register.size) == (offset, size) else None


def _refuse_clash(register: Claimant, others: Iterable[Claimant], direction: Direction) -> None:
    for other in others:
        if other.whole == register.whole and (other.when is None or register.when is None):
            raise DeclarationError(
                f"{register.name} and {other.name} both claim {direction.name.lower()}s at offset "
                f"{max(register.offset, other.offset):#x}; give both a bank (when=) or move one"
            )
