"""The client's half: numbers its exits, keeps what is unanswered, reads what arrives.

One `Client` stands for one session, whatever the number of its connections: a vCPU's
thread touches only its own vCPU's part, so threads with a JOINed channel each can
share it.  No sockets here; the caller sends the bytes and hands datagrams to `receive`.

Specification: docs/protocol.md, "Exactly once" and "Reconnecting".
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import Final, cast

from attrs import define, field

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import events
from mmiod.protocol.exit.codec import ERROR, UNKNOWN_TYPE, frame, pack
from mmiod.protocol.exit.completions import Completed
from mmiod.protocol.exit.exits import PostedWrite, encode_exit, encode_posted
from mmiod.protocol.exit.readers import read_framed
from mmiod.protocol.exit.sourced import SourceExit, encode_source
from mmiod.protocol.exit.table import NUMBERS, VERSION
from mmiod.values import Access, Exit

NEW_SESSION: Final = bytes(16)
"""The token of a client that has none yet."""


@define
class _Vcpu:
    sequence: int = 0
    """Of the last exit sent."""
    pending: bytes = b""
    """The exit that awaits its completion."""
    dropped: int = 0
    """The last exit that a RESET may have kept from being completed."""
    posted_sequence: int = 0
    posted: deque[tuple[int, bytes]] = field(factory=deque)
    """(sequence, message) of posted writes that no completion has acknowledged."""


@define
class Client:
    """A session as its client sees it.

    `vcpus`, `required`, `optional`, ... go into HELLO; `token` and `capabilities` are
    WELCOME's once that has arrived.
    """

    vm: str
    vcpus: int
    required: int = 0
    optional: int = 0
    vendor: str = ""
    bitness: int = 64
    physical_bits: int = 52
    shared_mask: int = 0
    deadline_ns: int = 0
    source: int = 0
    """Whose structures its `SourceExit`s bring: a number of `enum source`."""
    token: bytes = NEW_SESSION
    capabilities: int = 0
    _states: list[_Vcpu] = field(init=False)
    _serials: count[int] = field(init=False, factory=lambda: count(1))

    @_states.default
    def _fresh(self) -> list[_Vcpu]:
        return [_Vcpu() for _ in range(self.vcpus)]

    # --- connecting ------------------------------------------------------------------

    def hello(self, *, join: bool = False) -> bytes:
        """The first message of a connection: of a new session, one to go on with, or a channel of it."""
        return pack(
            "HELLO",
            NUMBERS["hello_flag"]["JOIN"] if join else 0,
            version_min=VERSION,
            version_max=VERSION,
            vcpus=self.vcpus,
            required=self.required,
            optional=self.optional,
            token=self.token,
            shared_mask=self.shared_mask,
            deadline_ns=self.deadline_ns,
            source=self.source,
            bitness=self.bitness,
            physical_bits=self.physical_bits,
            vm=self.vm,
            vendor=self.vendor,
        )

    def unanswered(self, vcpu: int) -> list[bytes]:
        """What to send again, in this order, after a reconnect or RESUMED."""
        state = self._states[vcpu]
        return [message for _, message in state.posted] + ([state.pending] if state.pending else [])

    # --- exits -----------------------------------------------------------------------

    def exit(self, exit_: Exit | SourceExit, guest_ns: int = 0) -> bytes:
        """The bytes of an exit, which gets its vCPU's next sequence number."""
        state = self._states[exit_.vcpu]
        assert not state.pending, f"vCPU {exit_.vcpu} has exit {state.sequence} outstanding"
        exit_.sequence = state.sequence + 1
        if isinstance(exit_, SourceExit):
            state.pending = encode_source(exit_, guest_ns)
        else:
            state.pending = encode_exit(exit_, guest_ns)
        state.sequence += 1
        return state.pending

    def post(self, vcpu: int, access: Access, guest_ns: int = 0) -> bytes:
        """The bytes of a posted write of 1, 2, 4 or 8 bytes."""
        state = self._states[vcpu]
        message = encode_posted(PostedWrite(vcpu, state.posted_sequence + 1, guest_ns, access))
        state.posted_sequence += 1
        state.posted.append((state.posted_sequence, message))
        return message

    def posted(self, vcpu: int) -> int:
        """The number of the last posted write."""
        return self._states[vcpu].posted_sequence

    def applied(self, vcpu: int, sequence: int) -> None:
        """Posted writes up to this one have reached their devices."""
        posted = self._states[vcpu].posted
        while posted and posted[0][0] <= sequence:
            posted.popleft()

    # --- requests: (serial, bytes); the ACK or ERROR carries the serial --------------

    def map(
        self,
        slot: int,
        gpa: int,
        length: int,
        *,
        offset: int = 0,
        read_only: bool = False,
        descriptor: bool = True,
    ) -> tuple[int, bytes]:
        """Map a slot of guest memory; its descriptor goes along unless `descriptor` is false."""
        bits = NUMBERS["map_flag"]
        flags = (bits["READ_ONLY"] if read_only else 0) | (0 if descriptor else bits["NO_DESCRIPTOR"])
        return self._request("MAP", flags=flags, slot=slot, gpa=gpa, length=length, offset=offset)

    def unmap(self, slot: int) -> tuple[int, bytes]:
        """Take a slot away; it may be used until the ACK."""
        return self._request("UNMAP", slot=slot)

    def remap(self, slot: int, gpa: int) -> tuple[int, bytes]:
        """Move a slot."""
        return self._request("REMAP", slot=slot, gpa=gpa)

    def reset(self, vcpu: int | None = None) -> tuple[int, bytes]:
        """Reset a vCPU or (None) the machine; what is outstanding is dropped.

        A completion that was already on its way still arrives.
        """
        for state in self._states if vcpu is None else [self._states[vcpu]]:
            state.pending, state.dropped = b"", state.sequence
        return self._request("RESET", vcpu=events.WHOLE_MACHINE if vcpu is None else vcpu)

    def pause(self) -> tuple[int, bytes]:
        """Stop the devices' clock once nothing is in flight."""
        return self._request("PAUSE")

    def resume(self) -> tuple[int, bytes]:
        """Let the devices go on."""
        return self._request("RESUME")

    def save(self) -> tuple[int, bytes]:
        """Save the devices' state, while paused; the ACK brings a descriptor and its length."""
        return self._request("SAVE")

    def restore(self, length: int) -> tuple[int, bytes]:
        """Restore the devices' state from the descriptor that goes along."""
        return self._request("RESTORE", length=length)

    def share(self, slots: int, length: int) -> tuple[int, bytes]:
        """Offer shared memory; its descriptors go along: memfd, kick, an ear for each slot."""
        return self._request("SHARE", slots=slots, length=length)

    def query_claims(self) -> tuple[int, bytes]:
        """Ask for the address map, which comes as CLAIMS."""
        return self._request("QUERY_CLAIMS")

    def eoi(self, line: int) -> bytes:
        """The guest acknowledged the level interrupt of `line`; nothing answers."""
        return pack("EOI", line=line)

    def revoked(self, number: int) -> bytes:
        """What was granted under this number does not stand any more; nothing answers."""
        return pack("REVOKED", number=number)

    def _request(self, name: str, *, flags: int = 0, **fields: int) -> tuple[int, bytes]:
        serial = next(self._serials)
        return serial, pack(name, flags, serial=serial, **fields)

    # --- what arrives ----------------------------------------------------------------

    def receive(self, data: bytes) -> events.ToClient:
        """One datagram from the daemon as an event.

        Raises:
            ProtocolError: the daemon broke the protocol; close the connection.
        """
        form, flags = frame(data)
        if form.layout.to_daemon:
            raise ProtocolError(
                UNKNOWN_TYPE, "header.type", form.type, f"{form.layout.name} goes to the daemon"
            )
        event = cast("events.ToClient", read_framed(data, form, flags))
        if isinstance(event, Completed):
            self._settle(event)
        elif isinstance(event, events.Welcome):
            self.token = event.token
            self.capabilities = event.capabilities
        return event

    def _settle(self, done: Completed) -> None:
        if done.vcpu >= self.vcpus:
            raise ProtocolError(ERROR["RANGE"], "completion.vcpu", done.vcpu, f"there are {self.vcpus}")
        state = self._states[done.vcpu]
        self.applied(done.vcpu, done.posted)
        if 0 < done.sequence <= state.dropped:
            return
        if done.sequence != state.sequence or not state.pending:
            reason = f"vCPU {done.vcpu} awaits {state.sequence if state.pending else 'nothing'}"
            raise ProtocolError(ERROR["SEQUENCE"], "completion.sequence", done.sequence, reason)
        state.pending = b""
