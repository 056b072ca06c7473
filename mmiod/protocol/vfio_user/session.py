"""The server's side of one connection: bytes and descriptors in; events and bytes out.

`receive` takes what a `recvmsg` gave, `take` gives the next event that is the device's, and
answers on the way what is not.  Whoever takes an event answers it before the next one, so
that messages are done strictly in their order.  What is to be sent waits in `outgoing`,
descriptors that nobody wanted in `unwanted`.

One profile suits all known clients: rust-vmm reads replies of a fixed size and does not look
at the error flag, so an error goes only where that is harmless.  An access outside of a
region reads all ones, as PCI does, and is told as a `Complaint`; one of a region that cannot be
is an error, as no guest can bring that about.

Specification: QEMU docs/interop/vfio-user.rst.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Final

from attrs import define, field, frozen

from mmiod.errors import ProtocolError
from mmiod.protocol.vfio_user import features, queries, requests, table
from mmiod.protocol.vfio_user.asking import Answer, Asked
from mmiod.protocol.vfio_user.features import Featured
from mmiod.protocol.vfio_user.frames import Frames, Message
from mmiod.protocol.vfio_user.requests import (
    MAX_TRANSFER,
    MapMemory,
    OneWrite,
    Read,
    Request,
    Reset,
    SetIrqs,
    Shape,
    ShareRegion,
    UnmapMemory,
    Write,
    check,
    refused,
    within,
)
from mmiod.protocol.vfio_user.table import COMMANDS, HEADER, LAYOUTS, NUMBERS, Command
from mmiod.protocol.vfio_user.version import negotiate

MAX_MESSAGE: Final = HEADER.size + LAYOUTS["region_access"].size + MAX_TRANSFER


@frozen
class Complaint:
    """A client asked what cannot be: it has its answer, this is for people."""

    request: Request
    error: ProtocolError


Event = MapMemory | UnmapMemory | SetIrqs | Read | Write | Reset | ShareRegion | Answer | Featured | Complaint


@define(eq=False)
class Session:
    """One connection to a function of this shape; `busy` refuses it with EBUSY."""

    shape: Shape
    migrates: bool = False
    """Whether the function's state can be had."""
    takes_messages: bool = False
    """Whether it is known that the client takes messages about its memory, whatever it names."""
    busy: bool = False
    outgoing: bytearray = field(factory=bytearray)
    unwanted: list[int] = field(factory=list)
    negotiated: bool = False
    reach: int = 0
    """Bytes of the client's memory that one message reaches; 0: it takes none."""
    asked: Asked = field(factory=Asked)
    """What it was asked."""
    _frames: Frames = field(factory=lambda: Frames(MAX_MESSAGE))
    _complaint: Complaint | None = None

    def receive(self, chunk: bytes, descriptors: list[int]) -> None:
        """Take what came.

        Raises:
            ProtocolError: there is no telling where the next message begins: close.
        """
        try:
            self._frames.feed(chunk, descriptors)
        except ProtocolError:
            self.unwanted += descriptors
            raise

    def take(self) -> Event | None:
        """The next event; None when nothing whole is left.

        Raises:
            ProtocolError: send `outgoing`, then close.
        """
        while self._complaint is None and self._frames.ready:
            message = self._frames.ready.popleft()
            request = _request(message)
            try:
                event = self._understand(message, request)
            except ProtocolError as error:
                self._error(request, error.code)
                if error.fatal:
                    raise
                return Complaint(request, error)
            finally:
                self.unwanted += message.descriptors  # those that the event did not take over
            if event is not None:
                return event
        complaint, self._complaint = self._complaint, None
        return complaint

    @property
    def idle(self) -> bool:
        """Whether all that came was taken."""
        return self._frames.empty

    @property
    def received(self) -> list[Message]:
        """Messages that came and were not taken; the last one may have come in part."""
        return self._frames.received

    def resume(self, received: Iterable[Message], *, negotiated: bool, reach: int, asked: Asked) -> None:
        """Go on where another session of the same connection was."""
        self.negotiated, self.reach, self.asked = negotiated, reach, asked
        self._frames.resume(received)

    def answer(self, request: Request, payload: bytes = b"") -> None:
        """The reply to an event."""
        if not request.quiet:
            self.outgoing += _header(request, table.REPLY, len(payload)) + payload

    def fail(self, request: Request, code: int) -> None:
        """An error reply to an event, with an errno."""
        self._error(request, code)

    def close(self) -> None:
        """Nothing more is taken; descriptors that wait are unwanted."""
        self.unwanted += self._frames.clear()

    # --- one message ---------------------------------------------------------------------

    def _understand(self, message: Message, request: Request) -> Event | None:
        kind = message.header["flags"] & table.TYPE
        if kind == table.REPLY and self.negotiated:
            return self.asked.answered(message)
        if kind:
            reason = "no command, and nothing was asked"
            raise ProtocolError(errno.EINVAL, "header.flags", message.header["flags"], reason)
        if not self.negotiated:
            self._negotiate(message, request)
            return None
        command = COMMANDS.get(request.command)
        if command is None or command.number == NUMBERS["VERSION"]:
            reason = "no command of a client" if command is None else "versions are agreed already"
            raise refused("header.command", request.command, reason, errno.ENOTSUP)
        payload = bytes(message.payload)
        _check_form(command, payload, message.descriptors)
        if command.name in features.COMMANDS:
            return self._feature(command, request, payload)
        return self._event(command, request, payload, message.descriptors)

    def _event(
        self, command: Command, request: Request, payload: bytes, descriptors: list[int]
    ) -> Event | None:
        asked = command.request.read(payload)
        match command.name:
            case "DMA_MAP":
                return requests.map_memory(request, asked, descriptors)
            case "DMA_UNMAP":
                return requests.unmap_memory(request, asked, payload)
            case "SET_IRQS":
                tail = payload[command.request.size :]
                return requests.set_irqs(request, asked, tail, descriptors, self.shape)
            case "REGION_READ":
                return self._read(request, asked)
            case "REGION_WRITE":
                return self._write(request, asked, payload)
            case "WRITE_MULTI":
                count = payload[: command.request.size]
                return self._writes(request, tuple(requests.writes(payload)), count)
            case "RESET":
                return Reset(request)
        return self._queried(request, command, asked)

    def _queried(self, request: Request, command: Command, asked: dict[str, int]) -> ShareRegion | None:
        """Answer what the shape does; a descriptor is not here to go with it."""
        shares = command.name == "GET_REGION_INFO"
        reply = queries.shared_region(asked, self.shape) if shares else None
        if reply is not None:
            return ShareRegion(request, asked["index"], reply)
        self.answer(request, queries.answer(command, asked, self.shape))
        return None

    def _negotiate(self, message: Message, request: Request) -> None:
        if request.command != NUMBERS["VERSION"]:
            reason = "a connection begins with VERSION"
            raise ProtocolError(errno.EINVAL, "header.command", request.command, reason)
        payload = bytes(message.payload)
        if len(payload) < LAYOUTS["version"].size:
            raise ProtocolError(errno.EINVAL, "header.size", message.header["size"], "VERSION is longer")
        if self.busy:
            raise ProtocolError(errno.EBUSY, "connection", 1, "the function has a client")
        reply, self.reach = negotiate(payload, takes_messages=self.takes_messages)
        self.answer(request, reply)
        self.negotiated = True

    def _feature(self, command: Command, request: Request, payload: bytes) -> Featured | None:
        asked = command.request.read(payload)
        found = features.COMMANDS[command.name](request, asked, payload, migrates=self.migrates)
        if isinstance(found, bytes):
            self.answer(request, found)
            return None
        return found

    # --- accesses ------------------------------------------------------------------------

    def _read(self, request: Request, asked: dict[str, int]) -> Read | None:
        region, offset, count = asked["region"], asked["offset"], asked["count"]
        check(count <= MAX_TRANSFER, "region_read.count", count, f"at most {MAX_TRANSFER}")
        check(region < table.REGIONS, "region_read.region", region, f"there are {table.REGIONS}")
        if within(self.shape, region, offset, count):
            return Read(request, region, offset, count)
        self.answer(request, read_reply(region, offset, b"\xff" * count))
        self._complain(request, region, offset, count)
        return None

    def _write(self, request: Request, asked: dict[str, int], payload: bytes) -> Write:
        size = LAYOUTS["region_access"].size
        count = asked["count"]
        check(len(payload) - size == count, "region_write.count", count, f"{len(payload) - size} bytes came")
        one = OneWrite(asked["region"], asked["offset"], payload[size:])
        return self._writes(request, (one,), payload[:size])

    def _writes(self, request: Request, all_: tuple[OneWrite, ...], reply: bytes) -> Write:
        """Those that are inside of a region; the others are dropped."""
        inside = []
        for one in all_:
            if within(self.shape, one.region, one.offset, len(one.data)):
                inside.append(one)
            else:
                self._complain(request, one.region, one.offset, len(one.data))
        return Write(request, tuple(inside), reply)

    def _complain(self, request: Request, region: int, offset: int, count: int) -> None:
        """Of one access in a message; `take` tells it behind the message's event."""
        has = self.shape.regions[region] if region < table.REGIONS else 0
        reason = f"with {count} bytes in region {region}, which has {has:#x}"
        self._complaint = Complaint(request, refused("region.offset", offset, reason))

    def _error(self, request: Request, code: int) -> None:
        if not request.quiet:
            self.outgoing += _header(request, table.REPLY | table.ERROR, 0, code)


def read_reply(region: int, offset: int, data: bytes) -> bytes:
    """The payload that answers a `Read`."""
    return LAYOUTS["region_access"].pack(offset=offset, region=region, count=len(data)) + data


def _request(message: Message) -> Request:
    header = message.header
    return Request(header["id"], header["command"], bool(header["flags"] & (table.NO_REPLY | table.TYPE)))


def _header(request: Request, flags: int, length: int, error: int = 0) -> bytes:
    size = HEADER.size + length
    return HEADER.pack(id=request.id, command=request.command, size=size, flags=flags, error=error)


def _check_form(command: Command, payload: bytes, descriptors: list[int]) -> None:
    """Size and descriptors, as the table has them."""
    size, tail = command.request.size, command.request.tail
    fits = len(payload) >= size if tail else len(payload) == size
    check(fits, "header.size", HEADER.size + len(payload), f"{command.name} has another one")
    limit = command.descriptors
    check(len(descriptors) <= limit, f"{command.name} descriptors", len(descriptors), f"at most {limit}")
