"""What the daemon says besides WELCOME and completions, as bytes.

Specification: docs/protocol.md, "Messages".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import asdict

from mmiod.errors import ProtocolError
from mmiod.protocol.exit.codec import BY_NAME, pack, structure
from mmiod.protocol.exit.events import WHOLE_MACHINE, Claim, Grant
from mmiod.protocol.exit.readers import SPAN
from mmiod.protocol.exit.table import MAX_MESSAGE

_CLAIM: Final = structure("claim")
CLAIMS_PER_MESSAGE: Final = (MAX_MESSAGE - BY_NAME["CLAIMS"].struct.size) // _CLAIM.size


def ack(serial: int, value: int = 0) -> bytes:
    """The request with this serial is done."""
    return pack("ACK", serial=serial, value=value)


def error(refused: ProtocolError) -> bytes:
    """The one reply that an error gets."""
    return pack(
        "ERROR",
        code=refused.code,
        fatal=int(refused.fatal),
        subject=refused.subject,
        value=refused.value % SPAN,
        name=refused.name,
        reason=refused.reason,
    )


def resumed(generation: int) -> bytes:
    """This daemon took over: resend what is unanswered."""
    return pack("RESUMED", generation=generation)


def intr(vcpu: int, level: bool) -> bytes:
    """The interrupt request towards a vCPU changed."""
    return pack("INTR", vcpu=vcpu, level=int(level))


def set_level(line: int, level: bool) -> bytes:
    """A line of an interrupt controller in the hypervisor changed."""
    return pack("SET_LEVEL", line=line, level=int(level))


def msi(address: int, data: int) -> bytes:
    """A message-signalled interrupt."""
    return pack("MSI", address=address, data=data)


def request(kind: int, vcpu: int | None = None, value: int = 0) -> bytes:
    """A device asks the hypervisor; `kind` is a number of `enum request_kind`, None the machine."""
    return pack("REQUEST", kind=kind, vcpu=WHOLE_MACHINE if vcpu is None else vcpu, value=value)


def grant(given: Grant) -> bytes:
    """This may stand in the hypervisor."""
    return pack("GRANT", **asdict(given))


def revoke(number: int) -> bytes:
    """That may not stand there any more."""
    return pack("REVOKE", number=number)


def claims(serial: int, ranges: Sequence[Claim]) -> list[bytes]:
    """The address map in as many messages as it takes; serial 0 if nobody asked."""
    starts = range(0, max(len(ranges), 1), CLAIMS_PER_MESSAGE)
    return [_claims(serial, ranges[at : at + CLAIMS_PER_MESSAGE], len(ranges) - at) for at in starts]


def _claims(serial: int, part: Sequence[Claim], left: int) -> bytes:
    tail = b"".join(
        _CLAIM.pack(claim.base, claim.length % SPAN, claim.space, claim.policy, claim.owner.encode("ascii"))
        for claim in part
    )
    return pack("CLAIMS", 0, tail, serial=serial, count=len(part), remaining=left - len(part))
