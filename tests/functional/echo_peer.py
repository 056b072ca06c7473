"""The far end of a wire: an IPv4 host that answers ARP, pings, and one TCP connection at a time.

What it receives by TCP on any port it sends back.  It has no timers: the other side repeats
what is lost, and loses nothing on a Unix socket.
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


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@define(eq=False)
class Peer:
    """One host; `frames` counts what it received by EtherType and protocol."""

    pings: int = 0
    echoed: int = 0
    """Bytes by TCP."""
    _sent: int = 0
    _awaited: int = 0
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
        source, port, number, _, offset, flags = struct.unpack_from(">HHIIBB", payload)
        data = payload[4 * (offset >> 4) :]
        if flags & SYN:
            self._sent, self._awaited = 1000, number + 1 & 0xFFFF_FFFF
            self._segment(to, address, (port, source), SYN | ACK, b"")
            self._sent += 1
        elif number == self._awaited and (data or flags & FIN):
            self._awaited = number + len(data) + (flags & FIN) & 0xFFFF_FFFF
            for at in range(0, len(data), SEGMENT):
                self._segment(to, address, (port, source), ACK, data[at : at + SEGMENT])
            self.echoed += len(data)
            if flags & FIN:
                self._segment(to, address, (port, source), FIN | ACK, b"")
        elif data:
            self._segment(to, address, (port, source), ACK, b"")

    def _segment(self, to: bytes, address: bytes, ports: tuple[int, int], flags: int, data: bytes) -> None:
        head = struct.pack(">HHIIBBHHH", *ports, self._sent, self._awaited, 5 << 4, flags, 0x8000, 0, 0)
        pseudo = ADDRESS + address + struct.pack(">BBH", 0, TCP, len(head) + len(data))
        head = head[:16] + struct.pack(">H", checksum(pseudo + head + data)) + head[18:]
        self._sent = self._sent + len(data) & 0xFFFF_FFFF
        self._ip(to, address, TCP, head + data)

    async def serve(self, path: Path) -> None:
        """Answer on a datagram socket, until cancelled."""
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
            await wire.bind(str(path))
            while True:
                frame, sender = await wire.recvfrom(65536)
                for reply in self.answer(frame):
                    await wire.sendto(reply, sender)
