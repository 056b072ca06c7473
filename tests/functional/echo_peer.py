"""The far end of a wire: an IPv4 host that answers ARP, pings, and one TCP connection at a time.

What it receives by TCP on any port it sends back, as far as the window allows, and again if nothing
acknowledges it: a guest that is busy drops frames for which it has no room.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Final

import trio
from attrs import define, field

MAC: Final = bytes.fromhex("525400000001")
ADDRESS: Final = bytes((10, 0, 0, 1))
ARP, IPV4 = 0x0806, 0x0800
ICMP, TCP = 1, 6
FIN, SYN, ACK = 1, 2, 16
SEGMENT: Final = 1400
REPEAT_S: Final = 0.3
"""After so long a silence what is not acknowledged is sent again."""
FIRST: Final = 1000
"""Our first sequence number."""
MODULUS: Final = 1 << 32


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@define(eq=False)
class Peer:
    """One host; `pings` and `echoed` count what it was asked."""

    pings: int = 0
    echoed: int = 0
    """Bytes by TCP."""
    _awaited: int = 0
    _first: int = FIRST
    """Sequence number of what is not acknowledged yet."""
    _unacknowledged: bytearray = field(factory=bytearray)
    """From there on; what is behind `_under_way` has not been sent."""
    _under_way: int = 0
    _window: int = 0
    _ends: bool = False
    """The other side has, so we do behind what is left."""
    _ended: bool = False
    """That has been sent."""
    _to: tuple[bytes, bytes, tuple[int, int]] = (b"", b"", (0, 0))
    """Link and IP address of the other side, our port and theirs."""
    _out: list[bytes] = field(factory=list)

    def answer(self, frame: bytes) -> list[bytes]:
        """Frames in reply to one."""
        self._out = []
        source, (kind,) = frame[6:12], struct.unpack_from(">H", frame, 12)
        if kind == ARP and frame[38:42] == ADDRESS:
            body = struct.pack(">HHBBH", 1, IPV4, 6, 4, 2) + MAC + ADDRESS + frame[22:32]
            self._send(source, ARP, body)
        elif kind == IPV4 and frame[30:34] == ADDRESS:
            (length,) = struct.unpack_from(">H", frame, 16)
            payload = frame[14 + 4 * (frame[14] & 15) : 14 + length]
            handler = {ICMP: self._icmp, TCP: self._tcp}.get(frame[23])
            if handler is not None:
                handler(source, frame[26:30], payload)
        return self._out

    def _send(self, to: bytes, kind: int, body: bytes) -> None:
        self._out.append((to + MAC + struct.pack(">H", kind) + body).ljust(60, b"\0"))

    def _ip(self, to: bytes, address: bytes, protocol: int, payload: bytes) -> None:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + ADDRESS + address
        head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
        self._send(to, IPV4, head + payload)

    def _icmp(self, to: bytes, address: bytes, payload: bytes) -> None:
        if payload[0] == 8:
            self.pings += 1
            reply = b"\0\0\0\0" + payload[4:]
            self._ip(to, address, ICMP, reply[:2] + struct.pack(">H", checksum(reply)) + reply[4:])

    def _tcp(self, to: bytes, address: bytes, payload: bytes) -> None:
        source, port, number, acknowledged, offset, flags, window = struct.unpack_from(">HHIIBBH", payload)
        data = payload[4 * (offset >> 4) :]
        self._to = to, address, (port, source)
        self._window = window
        if flags & SYN:
            self._awaited = (number + 1) % MODULUS
            self._first, self._under_way, self._ends, self._ended = FIRST, 0, False, False
            self._unacknowledged.clear()
            self._segment(SYN | ACK, b"")
            self._first += 1
            return
        known = (acknowledged - self._first) % MODULUS
        if self._ended and known == len(self._unacknowledged) + 1:  # all, and the end
            self._unacknowledged.clear()
            self._first, self._under_way, self._ends = acknowledged, 0, False
        elif known <= len(self._unacknowledged):
            del self._unacknowledged[:known]
            self._first = acknowledged
            self._under_way = max(0, self._under_way - known)
        if number == self._awaited and (data or flags & FIN):
            self._awaited = (number + len(data) + (flags & FIN)) % MODULUS
            self._unacknowledged += data
            self.echoed += len(data)
            self._ends |= bool(flags & FIN)
        if not self._send_on() and (data or flags & FIN):
            self._segment(ACK, b"")

    def repeat(self) -> list[bytes]:
        """What is sent again after a silence."""
        self._out, self._under_way, self._ended = [], 0, False
        if self._unacknowledged or self._ends:
            self._window = max(self._window, 1)  # a probe
            self._send_on()
        return self._out

    def _send_on(self) -> bool:
        """Send what the window allows; whether that was anything."""
        before = len(self._out)
        while size := min(
            SEGMENT, self._window - self._under_way, len(self._unacknowledged) - self._under_way
        ):
            if size < 0:
                break
            part = bytes(self._unacknowledged[self._under_way : self._under_way + size])
            self._segment(ACK, part)
            self._under_way += size
        if self._ends and not self._ended and self._under_way == len(self._unacknowledged):
            self._segment(FIN | ACK, b"")
            self._ended = True
        return len(self._out) > before

    def _segment(self, flags: int, data: bytes) -> None:
        to, address, ports = self._to
        number = (self._first + self._under_way) % MODULUS
        head = struct.pack(">HHIIBBHHH", *ports, number, self._awaited, 5 << 4, flags, 0x8000, 0, 0)
        pseudo = ADDRESS + address + struct.pack(">BBH", 0, TCP, len(head) + len(data))
        head = head[:16] + struct.pack(">H", checksum(pseudo + head + data)) + head[18:]
        self._ip(to, address, TCP, head + data)

    async def serve(self, path: Path) -> None:
        """Answer on a datagram socket, until cancelled."""
        sender = ""
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
            await wire.bind(str(path))
            while True:
                replies: list[bytes] = []
                with trio.move_on_after(REPEAT_S) as silence:
                    frame, sender = await wire.recvfrom(65536)
                    replies = self.answer(frame)
                if silence.cancelled_caught and sender:
                    replies = self.repeat()
                for reply in replies:
                    await wire.sendto(reply, sender)
