"""What arrives, as values: the control messages of both directions.

A class stands for the message of its name and has the message's fields and flags as
attributes (`NO_DESCRIPTOR` is `no_descriptor`); `readers` makes them from bytes.
Exits arrive as `Arrived` and `PostedWrite`, completions as `Completed`.

Specification: docs/protocol.md, "Messages"; units are those of the table.
"""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from mmiod.protocol.exit.completions import Completed
from mmiod.protocol.exit.exits import PostedWrite
from mmiod.protocol.exit.sourced import SourceExit
from mmiod.values import Exit

WHOLE_MACHINE: Final = 0xFFFF_FFFF
"""On the wire, the `vcpu` of what concerns the machine; None in Python."""


def _vcpu_or_machine(vcpu: int | None) -> int | None:
    return None if vcpu == WHOLE_MACHINE else vcpu


# --- towards the daemon --------------------------------------------------------------


@frozen
class Arrived:
    """An exit; `body` is its datagram, which tells a resend from another exit."""

    exit: Exit | SourceExit
    guest_ns: int
    body: bytes


@frozen
class Hello:
    """The first message on a connection."""

    version_min: int
    version_max: int
    vcpus: int
    required: int
    optional: int
    token: bytes
    shared_mask: int
    deadline_ns: int
    source: int
    bitness: int
    physical_bits: int
    vm: str
    vendor: str
    join: bool


@frozen
class Map:
    """A slot of guest memory; one descriptor comes along unless `no_descriptor`."""

    serial: int
    slot: int
    gpa: int
    length: int
    offset: int
    read_only: bool
    no_descriptor: bool


@frozen
class Unmap:
    """The slot goes away."""

    serial: int
    slot: int


@frozen
class Remap:
    """The slot moves to `gpa`."""

    serial: int
    slot: int
    gpa: int


@frozen
class Eoi:
    """The guest acknowledged the level interrupt of `line`."""

    line: int


@frozen
class Reset:
    """A vCPU is reset, or (None) the machine."""

    serial: int
    vcpu: int | None = field(converter=_vcpu_or_machine)


@frozen
class Pause:
    """Let exits run out and stop the clock."""

    serial: int


@frozen
class Resume:
    """Go on after a Pause."""

    serial: int


@frozen
class Save:
    """Save the devices' state into a memfd."""

    serial: int


@frozen
class Restore:
    """Restore the devices' state from the descriptor."""

    serial: int
    length: int


@frozen
class QueryClaims:
    """Ask for the address map."""

    serial: int


@frozen
class Share:
    """Set up the shared-memory transport with the descriptors."""

    serial: int
    slots: int
    length: int


@frozen
class Revoked:
    """What was granted under this number does not stand in the hypervisor any more."""

    number: int


# --- towards the client --------------------------------------------------------------


@frozen
class Welcome:
    """The session is open."""

    version: int
    max_message: int
    capabilities: int
    token: bytes
    generation: int
    hook_deadline_ns: int
    max_vcpus: int
    max_slots: int
    rep_bound: int
    continued: bool


@frozen
class Resumed:
    """A new daemon took over."""

    generation: int


@frozen
class Ack:
    """The request with this serial is done."""

    serial: int
    value: int


@frozen
class Error:
    """The daemon refuses a message; `code` is a number of `enum error`."""

    code: int
    fatal: bool = field(converter=bool)
    subject: int
    value: int
    name: str
    reason: str


@frozen
class SetLevel:
    """A line of an interrupt controller in the hypervisor changes."""

    line: int
    level: bool = field(converter=bool)


@frozen
class Msi:
    """A message-signalled interrupt."""

    address: int
    data: int


@frozen
class Intr:
    """The interrupt request towards a vCPU changes."""

    vcpu: int
    level: bool = field(converter=bool)


@frozen
class Request:
    """A device asks something of the hypervisor; `kind` is a number of `enum request_kind`."""

    kind: int
    vcpu: int | None = field(converter=_vcpu_or_machine)
    """None: the machine."""
    value: int


@frozen
class Grant:
    """What may stand in the hypervisor until it is revoked; `kind` is a number of `enum grant_kind`."""

    number: int
    kind: int
    space: int
    size: int
    address: int
    value: int


@frozen
class Revoke:
    """What was granted under this number ends."""

    number: int


@frozen
class Claim:
    """A range of an address space and who answers there; `length` 2^64 is the whole space."""

    space: int
    base: int
    length: int
    policy: int
    """0: the device `owner`; else a number of `enum unclaimed_policy`."""
    owner: str


@frozen
class Claims:
    """A part of the address map; `remaining` claims follow in further messages."""

    serial: int
    remaining: int
    claims: tuple[Claim, ...]


ToDaemon = (
    Arrived | PostedWrite | Hello | Map | Unmap | Remap | Eoi | Reset | Pause | Resume | Save | Restore
    | QueryClaims | Share | Revoked
)  # fmt: skip
ToClient = (
    Completed | Welcome | Resumed | Ack | Error | SetLevel | Msi | Intr | Request | Claims | Grant | Revoke
)  # fmt: skip
