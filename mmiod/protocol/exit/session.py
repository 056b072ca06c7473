"""The daemon's side of one connection: what may come when, and the bytes that go back.

A connection begins with HELLO.  `receive` checks what a table can judge (size, type,
flags, ranges), then state, descriptors, capabilities and vCPU, and gives an event; the
attachment decides about identity and calls `welcome`.  Whether an exit is new is the
ledger's to say: it outlives this object.

Specification: docs/protocol.md, "Connecting" and "Errors".
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final, cast

from attrs import define, frozen

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import events, exits, replies
from mmiod.protocol.exit.codec import BY_NAME, ERROR, UNKNOWN_TYPE, Form, frame, pack, subject_of
from mmiod.protocol.exit.readers import read_framed
from mmiod.protocol.exit.sourced import SourceExit
from mmiod.protocol.exit.table import MAX_MESSAGE, MESSAGES, NUMBERS, VERSION
from mmiod.values import Exit, ExtendedState, RawExit

CAPABILITY: Final = NUMBERS["capability"]


class State(enum.Enum):
    """Of a connection."""

    EXPECT_HELLO = "before HELLO"
    NEGOTIATING = "before WELCOME"
    PRIMARY = "on the primary connection"
    CHANNEL = "on a joined channel"
    CLOSED = "after a fatal error"


def _types(*names: str) -> frozenset[int]:
    return frozenset(BY_NAME[name].type for name in names)


_TO_DAEMON: Final = frozenset(type_ for type_, layout in MESSAGES.items() if layout.to_daemon)
_EXITS: Final = frozenset(exits.DECODERS) | _types("EXIT_SOURCE", "POSTED")
SOURCES: Final = frozenset(number for _, number, _ in NUMBERS["source"].members)

ACCEPTS: Final = {
    State.EXPECT_HELLO: _types("HELLO"),
    State.NEGOTIATING: frozenset[int](),
    State.PRIMARY: _TO_DAEMON - _types("HELLO"),
    State.CHANNEL: _EXITS | _types("EOI"),
    State.CLOSED: frozenset[int](),
}
"""The messages that each state takes."""

NEEDS: Final = {
    BY_NAME["EXIT_HALT"].type: "INTR",
    BY_NAME["EXIT_INTA"].type: "INTR",
    BY_NAME["EOI"].type: "LEVELS",
    BY_NAME["SHARE"].type: "SHARED_MEMORY",
    BY_NAME["REVOKED"].type: "GRANTS",
}
"""The capability without which a message makes no sense."""

NO_DESCRIPTOR: Final = NUMBERS["map_flag"]["NO_DESCRIPTOR"]
DESCRIPTORS: Final[dict[int, Callable[[int, int], int]]] = {
    BY_NAME["MAP"].type: lambda flags, _vcpus: 0 if flags & NO_DESCRIPTOR else 1,
    BY_NAME["RESTORE"].type: lambda _flags, _vcpus: 1,
    BY_NAME["SHARE"].type: lambda _flags, vcpus: 2 + vcpus,
}
"""How many descriptors come with a message of these flags, in a session of that many vCPUs."""


@frozen
class Offer:
    """What this daemon offers to every client."""

    capabilities: int
    generation: int
    hook_deadline_ns: int
    max_vcpus: int
    max_slots: int
    rep_bound: int


@define
class Session:
    """One connection.  `hello` is there once it has arrived."""

    offer: Offer
    state: State = State.EXPECT_HELLO
    hello: events.Hello | None = None
    capabilities: int = 0
    """Granted ones, once HELLO has arrived."""

    def grants(self, capability: str) -> bool:
        """Whether the capability of this name was granted."""
        return bool(self.capabilities & CAPABILITY[capability])

    # --- from the client -------------------------------------------------------------

    def receive(self, data: bytes, descriptors: int = 0) -> events.ToDaemon:
        """One datagram that came with so many descriptors, as an event.

        On an error it is for the caller to close the descriptors.

        Raises:
            ProtocolError: naming the field; its `subject` is the message's.
        """
        try:
            return self._receive(data, descriptors)
        except ProtocolError as error:
            error.subject = error.subject or subject_of(data)
            raise

    def _receive(self, data: bytes, descriptors: int) -> events.ToDaemon:
        form, flags = frame(data)
        self._check_state(form)
        self._check_capability(form, flags)
        self._check_descriptors(form, flags, descriptors)
        event = cast("events.ToDaemon", read_framed(data, form, flags))
        if isinstance(event, events.Hello):
            self._negotiate(event)
        else:
            self._check_vcpu(event, form)
        return event

    def _check_state(self, form: Form) -> None:
        if form.type in ACCEPTS[self.state]:
            return
        if not form.layout.to_daemon:
            reason = f"{form.layout.name} goes to the client"
            raise ProtocolError(UNKNOWN_TYPE, "header.type", form.type, reason)
        reason = f"no {form.layout.name} {self.state.value}"
        raise ProtocolError(ERROR["STATE"], "header.type", form.type, reason)

    def _check_capability(self, form: Form, flags: int) -> None:
        needed = NEEDS.get(form.type)
        if needed and not self.grants(needed):
            reason = f"{form.layout.name} needs capability {needed}"
            raise ProtocolError(ERROR["CAPABILITY"], "header.type", form.type, reason)
        if form is BY_NAME["EXIT_SOURCE"] and self.hello is not None and not self.hello.source:
            reason = "EXIT_SOURCE needs a HELLO that names its source"
            raise ProtocolError(ERROR["STATE"], "header.type", form.type, reason)
        if form is BY_NAME["MAP"] and flags & NO_DESCRIPTOR and not self.grants("MEMORY_MESSAGES"):
            reason = "NO_DESCRIPTOR needs capability MEMORY_MESSAGES"
            raise ProtocolError(ERROR["CAPABILITY"], "header.flags", flags, reason)

    def _check_descriptors(self, form: Form, flags: int, descriptors: int) -> None:
        count = DESCRIPTORS.get(form.type)
        expected = count(flags, self._vcpus) if count else 0
        if descriptors != expected:
            reason = f"{form.layout.name} comes with {expected}"
            raise ProtocolError(ERROR["DESCRIPTOR"], f"{form.name} descriptors", descriptors, reason)

    def _check_vcpu(self, event: events.ToDaemon, form: Form) -> None:
        if isinstance(event, events.Arrived):
            name, vcpu = "exit.vcpu", event.exit.vcpu
            self._check_registers(event.exit)
        elif isinstance(event, exits.PostedWrite):
            name, vcpu = "exit.vcpu", event.vcpu
        elif isinstance(event, events.Reset) and event.vcpu is not None:
            name, vcpu = "vcpu", event.vcpu
        else:
            return
        if vcpu >= self._vcpus:
            reason = f"the session has {self._vcpus} vCPUs"
            raise ProtocolError(ERROR["RANGE"], f"{form.name}.{name}", vcpu, reason)

    def _check_registers(self, exit_: Exit | SourceExit) -> None:
        if _vectors(exit_) and not self.grants("VECTORS"):
            kind = NUMBERS["supplement_kind"]["REGISTERS"]
            reason = "a register supplement needs capability VECTORS"
            raise ProtocolError(ERROR["CAPABILITY"], "supplement.kind", kind, reason)

    @property
    def _vcpus(self) -> int:
        return self.hello.vcpus if self.hello else 0

    # --- connecting ------------------------------------------------------------------

    def _negotiate(self, hello: events.Hello) -> None:
        for holds, code, name, reason in self._terms(hello):
            if not holds:
                raise ProtocolError(ERROR[code], f"hello.{name}", getattr(hello, name), reason)
        if hello.join and not any(hello.token):
            raise ProtocolError(ERROR["IDENTITY"], "hello.token", 0, "JOIN needs the session's token")
        missing = hello.required & ~self.offer.capabilities
        if missing:
            reason = f"not offered: {_names(missing)}"
            raise ProtocolError(ERROR["CAPABILITY"], "hello.required", missing, reason)
        self.capabilities = hello.required | (hello.optional & self.offer.capabilities)
        self.hello = hello
        self.state = State.NEGOTIATING

    def _terms(self, hello: events.Hello) -> Sequence[tuple[bool, str, str, str]]:
        """What must hold of a HELLO: (holds, error code, field, reason)."""
        most = self.offer.max_vcpus
        spoken = f"this daemon speaks version {VERSION}"
        return (
            (hello.version_min <= hello.version_max, "RANGE", "version_min", "it is above version_max"),
            (hello.version_min <= VERSION, "VERSION", "version_min", spoken),
            (hello.version_max >= VERSION, "VERSION", "version_max", spoken),
            (hello.vcpus <= most, "LIMIT", "vcpus", f"at most {most}"),
            (hello.source in SOURCES, "UNAVAILABLE", "source", "a number of enum source"),
        )

    def welcome(self, token: bytes, *, continued: bool = False) -> bytes:
        """WELCOME: the attachment has found the VM, the token and the place free."""
        assert self.state is State.NEGOTIATING, self.state
        assert self.hello is not None
        self.state = State.CHANNEL if self.hello.join else State.PRIMARY
        return pack(
            "WELCOME",
            NUMBERS["welcome_flag"]["CONTINUED"] if continued else 0,
            version=VERSION,
            max_message=MAX_MESSAGE,
            capabilities=self.capabilities,
            token=token,
            generation=self.offer.generation,
            hook_deadline_ns=self.offer.hook_deadline_ns,
            max_vcpus=self.offer.max_vcpus,
            max_slots=self.offer.max_slots,
            rep_bound=self.offer.rep_bound,
        )

    def refuse(self, error: ProtocolError) -> bytes:
        """ERROR; after a fatal one this session takes nothing more and the caller closes."""
        if error.fatal:
            self.state = State.CLOSED
        return replies.error(error)


def _vectors(exit_: Exit | SourceExit) -> ExtendedState | None:
    if isinstance(exit_, SourceExit):
        return exit_.supplied.extended
    return exit_.state.extended if isinstance(exit_, RawExit) else None


def _names(capabilities: int) -> str:
    """Names of the known bits; the error's value shows all of them."""
    known = [name for name, bit, _ in CAPABILITY.members if capabilities >> bit & 1]
    unknown = capabilities >> len(CAPABILITY.members) != 0
    return ", ".join(known + ["others"] * unknown)


REPEATED: Final = (
    "vcpus",
    "required",
    "optional",
    "shared_mask",
    "source",
    "bitness",
    "physical_bits",
)
"""Fields of HELLO that every connection of a session repeats."""


def check_continues(hello: events.Hello, first: events.Hello) -> None:
    """A HELLO that goes on with a session, or joins it, repeats what the session began with.

    Raises:
        ProtocolError: RANGE, naming the field that differs.
    """
    for name in REPEATED:
        said, agreed = getattr(hello, name), getattr(first, name)
        if said != agreed:
            reason = f"the session began with {agreed:#x}"
            raise ProtocolError(ERROR["RANGE"], f"hello.{name}", said, reason)
