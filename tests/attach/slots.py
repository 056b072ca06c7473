"""The client's side of shared memory, in Python: slow, and able to do everything wrong."""

from __future__ import annotations

import mmap
import os
import select
from types import TracebackType
from typing import Self

import trio
from attrs import define, field

from mmiod.protocol.exit import NUMBERS, Ack, Completed, decode_completion, pack, shared
from mmiod.values import Access, DecodedExit, Direction, Exit, Space
from tests.attach.peers import PATIENCE_S, Guest, sealed

STATES = NUMBERS["shared_state"]
FREE, READY, COMPLETE, BY_MESSAGE = (STATES[name] for name in ("FREE", "READY", "COMPLETE", "BY_MESSAGE"))


@define(eq=False)
class Slots:
    """The slots of a guest's vCPUs.  One thread uses them, and is one with the daemon's."""

    guest: Guest
    vcpus: int = 2
    memory: mmap.mmap = field(init=False)
    memfd: int = -1
    kick: int = field(init=False)
    ears: list[select.epoll] = field(factory=list)
    posted: list[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.ears = [select.epoll() for _ in range(self.vcpus)]
        self.posted = [0] * self.vcpus

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        os.close(self.kick)
        if self.memfd >= 0:
            os.close(self.memfd)
        for ear in self.ears:
            ear.close()

    @property
    def length(self) -> int:
        """Bytes of the memory."""
        return shared.PAGE * (1 + self.vcpus)

    async def share(self) -> None:
        """SHARE, acknowledged."""
        with sealed(self.length) as memfd:
            self.memory, self.memfd = mmap.mmap(memfd, self.length), os.dup(memfd)
        await self.share_again()

    async def share_again(self) -> None:
        """SHARE of the same memory on a new connection, acknowledged."""
        await self.send_share(self.memfd)
        await self.guest.expect(Ack)

    async def send_share(self, memfd: int) -> None:
        """SHARE with the descriptors that are ours."""
        message = pack("SHARE", serial=1, slots=self.vcpus, length=self.length)
        await self.guest.send(message, memfd, self.kick, *(ear.fileno() for ear in self.ears))

    def store(self, vcpu: int, offset: int, value: int, size: int = 4) -> None:
        """A number into a slot."""
        at = shared.PAGE * (1 + vcpu) + offset
        self.memory[at : at + size] = value.to_bytes(size, "little")

    def state(self, vcpu: int) -> int:
        """The slot's state."""
        return self.load(vcpu, shared.STATE)

    def load(self, vcpu: int, offset: int, size: int = 4) -> int:
        """A number out of a slot."""
        at = shared.PAGE * (1 + vcpu) + offset
        return int.from_bytes(self.memory[at : at + size], "little")

    def put(self, vcpu: int, message: bytes) -> None:
        """An exit into a slot; then its bell."""
        at = shared.PAGE * (1 + vcpu) + shared.EXIT
        self.memory[at : at + len(message)] = message
        self.store(vcpu, shared.STATE, READY)
        self.ring(vcpu)

    def ring(self, vcpu: int) -> None:
        """The bell, and the kick for a daemon that sleeps."""
        bell = shared.DOORBELLS + vcpu
        self.memory[bell] = self.memory[bell] + 1 & 0xFF
        if self.memory[shared.DAEMON_SLEEPS]:
            os.eventfd_write(self.kick, 1)

    def post(self, vcpu: int, access: Access) -> None:
        """A posted write into the ring."""
        self.posted[vcpu] += 1
        at = shared.PAGE * (1 + vcpu) + shared.RING + self.posted[vcpu] % shared.ENTRIES * shared.ENTRY
        entry = access.address.to_bytes(8, "little") + access.value.to_bytes(8, "little")
        entry += bytes([access.space, 0]) + access.size.to_bytes(2, "little")
        self.memory[at : at + shared.ENTRY] = entry.ljust(shared.ENTRY, b"\0")
        self.store(vcpu, shared.POSTED, self.posted[vcpu], 8)
        self.ring(vcpu)

    async def answered(self, vcpu: int) -> int:
        """Sleep until the exit is answered: the slot's state."""
        self.store(vcpu, shared.CLIENT_SLEEPS, 1)
        ear = self.ears[vcpu]
        with trio.fail_after(PATIENCE_S):
            while self.state(vcpu) == READY:
                await trio.lowlevel.wait_readable(ear)
                ear.poll(0)
        self.store(vcpu, shared.CLIENT_SLEEPS, 0)
        return self.state(vcpu)

    async def completion(self, vcpu: int) -> Completed:
        """What the slot is answered by."""
        assert await self.answered(vcpu) == COMPLETE
        at = shared.PAGE * (1 + vcpu) + shared.COMPLETION
        data = self.memory[at : at + self.load(vcpu, shared.COMPLETION)]
        self.store(vcpu, shared.STATE, FREE)
        completed = self.guest.client.receive(data)
        assert completed == decode_completion(data)
        assert isinstance(completed, Completed)
        return completed

    async def exit(self, exit_: Exit) -> Completed:
        """An exit through its slot, and its completion."""
        self.put(exit_.vcpu, self.guest.client.exit(exit_))
        return await self.completion(exit_.vcpu)

    async def inp(self, port: int, size: int = 4, vcpu: int = 0) -> int:
        """IN, as a decoded exit."""
        done = await self.exit(DecodedExit(vcpu, 0, Space.PIO, Direction.READ, port, size))
        return int.from_bytes(done.completion.data, "little")  # type: ignore[union-attr]

    async def out(self, port: int, value: int, size: int = 4, vcpu: int = 0) -> Completed:
        """OUT, as a decoded exit."""
        data = value.to_bytes(size, "little")
        return await self.exit(DecodedExit(vcpu, 0, Space.PIO, Direction.WRITE, port, size, data=data))
