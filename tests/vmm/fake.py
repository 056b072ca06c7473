"""A daemon of one VM in a thread, answering from a function, and guests as bytes.

It keeps the books that a real daemon keeps (one reply per exit, a resend is not
executed again), so that a test sees each exit once however often it was sent.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
from attrs import define, field

from mmiod.protocol.exit import replies
from mmiod.protocol.exit.client import Client
from mmiod.protocol.exit.codec import pack
from mmiod.protocol.exit.completions import NO_DEADLINE, encode_completion
from mmiod.protocol.exit.events import Arrived, Eoi, Hello, Map, Pause, Reset, Restore, Save
from mmiod.protocol.exit.readers import read
from mmiod.protocol.exit.sourced import SourceExit
from mmiod.protocol.exit.table import MAX_MESSAGE, NUMBERS
from mmiod.values import Completion, DecodedExit, Direction, Exit, HaltExit, TickExit, Values
from mmiod.vmm import session
from mmiod.vmm.accelerator import Accelerator
from mmiod.vmm.clock import Clock, DaemonClock, InstructionClock
from mmiod.vmm.guest import GuestMemory
from mmiod.vmm.link import Link
from mmiod.vmm.vcpu import Vcpu
from mmiod.vmm.wire import Alarm

MAX_RESETS = 3
SHARED = sum(NUMBERS["capability"][name] for name in ("SHARED_MEMORY", "PUBLISHED", "GRANTS"))
"""Capabilities that it does not offer: tests of those have the real daemon."""
EXIT_PORT = 0xF4
"""A write here ends the run with the value as exit code."""
TOKEN = b"0123456789abcdef"
VM = "test"
PATIENCE_S = 60
"""Of both sides: one may have to wait while a second goes into collecting the whole suite's memory."""

Answer = Callable[["FakeDaemon", Exit], Completion | None]
"""None: no completion for now (a HLT with nothing pending)."""


def ones(_daemon: FakeDaemon, exit_: Exit) -> Completion | None:
    """What a machine without devices answers: port reads are all ones, interrupts none."""
    if isinstance(exit_, HaltExit):
        return None
    if isinstance(exit_, TickExit):
        return Values()
    assert isinstance(exit_, DecodedExit), exit_
    return Values(b"\xff" * exit_.size if exit_.direction is Direction.READ else b"")


@define
class FakeDaemon:
    """The daemon's end of a socket pair for each connection.

    `exits` are the executed ones with their guest_ns.  A sequence number in
    `break_before` or `break_after` closes the connection when that exit arrives, before
    or after it was executed, and before the reply is sent.
    """

    answer: Answer = ones
    interrupt: bool = False
    deadline_ns: int = NO_DEADLINE
    halt_ns: int = 0
    """By how much a halt moves guest time on."""
    knows: bool = True
    """Whether it knows its session again."""
    greeting: bytes = b""
    """Sent instead of WELCOME."""
    later: list[bytes] = field(factory=list)
    """Sent behind the next completion."""
    break_before: set[int] = field(factory=set)
    break_after: set[int] = field(factory=set)
    break_at: type | None = None
    """The same for the first such request, e.g. Reset."""
    saved: bytes = b"state"
    """What SAVE gives."""
    restored: list[bytes] = field(factory=list)
    """What RESTORE brought."""
    answer_resend: Completion | None = None
    """For an exit that got no reply the first time."""
    exits: list[tuple[Exit, int]] = field(factory=list)
    maps: list[Map] = field(factory=list)
    resets: list[Reset] = field(factory=list)
    hellos: list[Hello] = field(factory=list)
    eois: list[int] = field(factory=list)
    """Lines whose interrupt the guest ended."""
    high: set[int] = field(factory=set)
    """Lines that are high: each is told once more when its interrupt is ended."""
    resends: int = 0
    failure: BaseException | None = None
    _last: tuple[bytes, bytes] = (b"", b"")
    _socket: socket.socket | None = None
    _threads: list[threading.Thread] = field(factory=list)

    def connect(self) -> socket.socket:
        """A connection, as `Link.connect` wants it; after a failure that, for which nobody is patient."""
        if self.failure is not None:
            raise self.failure
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.settimeout(PATIENCE_S)  # a guest that went astray fails its test
        thread = threading.Thread(target=self.serve, args=[ours], daemon=True)
        self._threads.append(thread)
        thread.start()
        return theirs

    def join(self) -> None:
        """Wait for the threads, whose client has closed; raise what went wrong in one."""
        for thread in self._threads:
            thread.join(PATIENCE_S)
        if self.failure is not None:
            raise self.failure

    def send(self, message: bytes) -> None:
        """Send a message of our own accord."""
        assert self._socket is not None
        self._socket.send(message)

    def request(self, kind: str, value: int = 0) -> None:
        """Ask the hypervisor for something."""
        self.send(replies.request(NUMBERS["request_kind"][kind], value=value))

    def serve(self, connection: socket.socket) -> None:
        """Serve one connection to its end."""
        self._socket = connection
        try:
            with connection:
                while self._take(connection):
                    pass
        except OSError:
            pass  # the client left
        except BaseException as error:  # noqa: BLE001 - the test shall see it, whatever it is
            self.failure = error

    def _take(self, connection: socket.socket) -> bool:
        data, descriptors, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 4)
        message = read(data) if data else None
        if isinstance(message, Restore):
            self.restored.append(os.pread(descriptors[0], message.length, 0))
        for descriptor in descriptors:
            os.close(descriptor)
        if message is None:
            return False
        if isinstance(message, Arrived):
            return self._exit(connection, message)
        if isinstance(message, Eoi):
            self._eoi(message.line)
            return True
        reply = self._control(message)
        if type(message) is self.break_at:
            self.break_at = None
            return False
        if isinstance(message, Save):
            self._save(connection, message)
        else:
            connection.send(reply)
        return True

    def set_level(self, line: int, level: bool) -> None:
        """A device changes a line of the hypervisor's controller."""
        (self.high.add if level else self.high.discard)(line)
        self.send(replies.set_level(line, level))

    def _eoi(self, line: int) -> None:
        self.eois.append(line)
        if line in self.high:
            self.set_level(line, level=True)

    def _save(self, connection: socket.socket, message: Save) -> None:
        descriptor = os.memfd_create("state")
        os.write(descriptor, self.saved)
        reply = replies.ack(message.serial, len(self.saved))
        socket.send_fds(connection, [reply], [descriptor])
        os.close(descriptor)

    def _control(self, message: object) -> bytes:
        if isinstance(message, Hello):
            self.hellos.append(message)
            return self.greeting or self._welcome(message)
        if isinstance(message, Map):
            self.maps.append(message)
        elif isinstance(message, Reset):
            self.resets.append(message)
            assert len(self.resets) <= MAX_RESETS, "the guest resets for ever"
        assert isinstance(message, Map | Reset | Pause | Save | Restore), message
        return replies.ack(message.serial)

    def _welcome(self, hello: Hello) -> bytes:
        continued = hello.token == TOKEN and self.knows
        return pack(
            "WELCOME",
            NUMBERS["welcome_flag"]["CONTINUED"] if continued else 0,
            version=1,
            token=TOKEN,
            capabilities=hello.required | hello.optional & ~SHARED,
        )

    def _exit(self, connection: socket.socket, arrived: Arrived) -> bool:
        body, reply = self._last
        if arrived.exit.sequence in self.break_before:
            self.break_before.discard(arrived.exit.sequence)
            return False
        if arrived.body == body:
            self.resends += 1
            connection.send(reply or self._reply(arrived, self.answer_resend))
            return True
        reply = self._execute(arrived)
        self._last = arrived.body, reply
        if arrived.exit.sequence in self.break_after:
            return False
        for message in [reply, *self.later] if reply else []:
            connection.send(message)
        self.later.clear()
        return True

    def _execute(self, arrived: Arrived) -> bytes:
        exit_ = arrived.exit
        assert not isinstance(exit_, SourceExit), "mmiod-vmm sends the protocol's own exits"
        self.exits.append((exit_, arrived.guest_ns))
        if isinstance(exit_, DecodedExit) and exit_.address == EXIT_PORT:
            self.request("EXIT", exit_.data[0])
            completion: Completion | None = Values()
        else:
            completion = self.answer(self, exit_)
        return self._reply(arrived, completion) if completion is not None else b""

    def _reply(self, arrived: Arrived, completion: Completion | None) -> bytes:
        assert completion is not None, arrived
        exit_ = arrived.exit
        return encode_completion(
            completion,
            vcpu=exit_.vcpu,
            sequence=exit_.sequence,
            posted=0,
            interrupt=self.interrupt,
            guest_ns=arrived.guest_ns + (self.halt_ns if isinstance(exit_, HaltExit) else 0),
            deadline_ns=self.deadline_ns,
        )


def firmware(code: str, **places: str) -> bytes:
    """64 KiB of ROM that jumps to `code` at f000:0000; `places` are further pieces ("at_0200").

    Bytes are written as hex digits, with blanks where they help.
    """
    image = bytearray(65536)
    image[0xFFF0:0xFFF5] = bytes.fromhex("ea 0000 00f0")  # jmp f000:0000
    for at, piece in {"at_0": code, **places}.items():
        data = bytes.fromhex(piece)
        offset = int(at.removeprefix("at_"), 16)
        image[offset : offset + len(data)] = data
    return bytes(image)


EXIT = "b0 00 e6 f4 f4"
"""mov al, 0; out 0xf4, al; hlt: ends the run with code 0."""

IVT_20 = "c7068000 0002 c7068200 00f0"
"""mov word [0x80], 0x200; mov word [0x82], 0xf000: vector 0x20 is f000:0200 (DS is 0)."""

GDT = "0000000000000000 ffff0000009bcf00 ffff00000093cf00 ffff0000009b0f00 ffff000000930f00"
"""At offset 0x800: null, 08 flat code, 10 flat data, 18 16-bit code with 64 KiB x 16, 20 16-bit data."""
GDTR = "2700 00080f00"
"""At offset 0x7f0: limit and linear address of GDT."""


@define
class Run:
    """A guest, a daemon and what joins them; made by `guest`."""

    daemon: FakeDaemon
    memory: GuestMemory
    link: Link
    vcpu: Vcpu

    def run(self) -> int:
        """Run to the end; the exit code."""
        try:
            return self.vcpu.run()
        finally:
            self.close()

    def close(self) -> None:
        """Disconnect, and see what the daemon's thread has to say."""
        self.link.close()
        self.memory.close()
        self.daemon.join()


def guest(
    image: bytes,
    daemon: FakeDaemon,
    *,
    shift: int | None = None,
    accelerator: Callable[[Vcpu], Accelerator] | None = None,
    alarm: Alarm | None = None,
) -> Run:
    """A guest of 1 MiB with `image` as firmware; with `shift`, guest time is counted instructions."""
    memory = GuestMemory.create(1, image)
    link = Link(
        daemon.connect,
        Client(VM, vcpus=1),
        memory.slots,
        patience=PATIENCE_S,
        follow_intr=shift is None,
        alarm=alarm,
    )
    link.open()
    clock: Clock = DaemonClock() if shift is None else InstructionClock(shift)
    vcpu = Vcpu(link, memory, clock, accelerator or partial(unicorn, counted=shift is not None))
    return Run(daemon, memory, link, vcpu)


def unicorn(vcpu: Vcpu, *, counted: bool = False) -> Accelerator:
    """The accelerator of a test that needs unicorn."""
    from mmiod.vmm.unicorn import UnicornCpu  # noqa: PLC0415 - the mark `needs` comes first

    return UnicornCpu(vcpu.memory, vcpu.perform, vcpu.guest_ns if counted else None)


def runs_out(monkeypatch: pytest.MonkeyPatch, patience: float) -> None:
    """Let a link's patience end with its second attempt, whatever each takes."""
    clock = itertools.count(0.0, patience / 2)
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=partial(next, clock)))


def ports(run: Run) -> list[tuple[str, int, bytes]]:
    """The port writes and reads before the last one, as (direction, port, data)."""
    decoded = [exit_ for exit_, _ in run.daemon.exits if isinstance(exit_, DecodedExit)]
    return [(exit_.direction.name, exit_.address, exit_.data) for exit_ in decoded[:-1]]
