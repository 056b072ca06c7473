from __future__ import annotations

import pytest

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import (
    NUMBERS,
    Arrived,
    Client,
    Hello,
    Map,
    Offer,
    PostedWrite,
    Reset,
    Session,
    State,
    Welcome,
    check_continues,
    encode_exit,
    encode_posted,
    pack,
    read,
)
from mmiod.protocol.exit.codec import FORMS, Form
from mmiod.protocol.exit.session import REPEATED
from mmiod.values import (
    Access,
    AcknowledgeExit,
    Direction,
    ExtendedState,
    HaltExit,
    RawExit,
    RegisterSet,
    Space,
    TickExit,
    VcpuState,
)
from tests.protocol.messages import patch, refusal

ERROR = NUMBERS["error"]
CAPABILITY = NUMBERS["capability"]
OFFERED = CAPABILITY["GUEST_TIME"] | CAPABILITY["INTR"] | CAPABILITY["MSI"] | CAPABILITY["SHARED_MEMORY"]
TOKEN = bytes(range(16))
OFFER = Offer(OFFERED, generation=3, hook_deadline_ns=10**8, max_vcpus=8, max_slots=32, rep_bound=256)


def opened(optional: int = OFFERED, *, join: bool = False) -> Session:
    """A session of four vCPUs, past its WELCOME."""
    session = Session(OFFER)
    client = Client("vm0", 4, optional=optional, token=TOKEN)
    session.receive(client.hello(join=join))
    session.welcome(TOKEN)
    return session


# --- connecting ----------------------------------------------------------------------


def test_required_and_optional_capabilities() -> None:
    """Granted are the required ones and those optional ones that are offered; the rest is ignored."""
    session = Session(OFFER)
    client = Client(
        "vm0", 2, required=CAPABILITY["INTR"], optional=CAPABILITY["MSI"] | CAPABILITY["SAVE"] | 1 << 63
    )

    hello = session.receive(client.hello())
    welcome = client.receive(session.welcome(TOKEN, continued=True))

    assert isinstance(hello, Hello)
    assert isinstance(welcome, Welcome)
    assert CAPABILITY["INTR"] | CAPABILITY["MSI"] == welcome.capabilities == client.capabilities
    assert [True, False] == [session.grants("MSI"), session.grants("GUEST_TIME")]
    assert (1, 65536, TOKEN, 3, 10**8, 8, 32, 256, True) == (
        welcome.version,
        welcome.max_message,
        client.token,
        welcome.generation,
        welcome.hook_deadline_ns,
        welcome.max_vcpus,
        welcome.max_slots,
        welcome.rep_bound,
        welcome.continued,
    )


HELLO = Client("vm0", 2).hello()
NEWER = patch(HELLO, "version_max", 7)


@pytest.mark.parametrize(
    ("hello", "code", "name", "reason"),
    [
        (patch(HELLO, "version_min", 2), "RANGE", "hello.version_min", "above version_max"),
        (patch(NEWER, "version_min", 2), "VERSION", "hello.version_min", "speaks version 1"),
        (patch(HELLO, "vcpus", 9), "LIMIT", "hello.vcpus", "at most 8"),
        (patch(HELLO, "source", 10), "UNAVAILABLE", "hello.source", "a number of enum source"),
        (patch(HELLO, "header.flags", 1), "IDENTITY", "hello.token", "JOIN needs the session's token"),
        (patch(HELLO, "required", OFFERED | 64), "CAPABILITY", "hello.required", "not offered: SAVE"),
        (
            patch(HELLO, "required", 64 | 1 << 40),
            "CAPABILITY",
            "hello.required",
            "not offered: SAVE, others",
        ),
    ],
)
def test_hello_that_cannot_be_met(hello: bytes, code: str, name: str, reason: str) -> None:
    """A version, capability or size that this daemon does not have is refused by name."""
    error = refusal(lambda: Session(OFFER).receive(hello))

    assert (ERROR[code], name, True) == (error.code, error.name, error.fatal)
    assert reason in error.reason


def test_a_range_of_versions_that_holds_ours_is_met() -> None:
    """A client of a later version that still speaks version 1 is welcome."""
    session = Session(OFFER)

    session.receive(NEWER)

    assert State.NEGOTIATING is session.state


@pytest.mark.parametrize("field", REPEATED)
def test_connections_of_a_session_agree(field: str) -> None:
    """A HELLO that continues or joins a session repeats its first one; people's texts may differ."""
    wire = pack(
        "HELLO", version_min=1, version_max=1, vcpus=1, bitness=64, physical_bits=48, vm="vm0", vendor="a"
    )
    first, same = read(wire), read(wire.replace(b"a\0", b"b\0"))
    value = {"shared_mask": 1 << 47, "bitness": 32, "physical_bits": 40}.get(field, 2)
    other = read(patch(wire, field, value))
    assert isinstance(first, Hello)
    assert isinstance(same, Hello)
    assert isinstance(other, Hello)

    check_continues(same, first)
    error = refusal(lambda: check_continues(other, first))

    assert (ERROR["RANGE"], f"hello.{field}", value) == (error.code, error.name, error.value)
    assert error.reason.startswith("the session began with")


# --- states --------------------------------------------------------------------------

TO_DAEMON = [form for form in FORMS.values() if form.layout.to_daemon]
TO_CLIENT = [form for form in FORMS.values() if not form.layout.to_daemon]


def state_error(session: Session, form: Form) -> ProtocolError:
    """What the session says to an empty message of this form."""
    return refusal(lambda: session.receive(pack(form.layout.name)))


@pytest.mark.parametrize("form", TO_DAEMON, ids=lambda form: form.layout.name)
def test_only_hello_comes_first(form: Form) -> None:
    """Before HELLO there is nothing else, between HELLO and WELCOME and after the end nothing."""
    waiting, closed = Session(OFFER), opened()
    waiting.receive(HELLO)
    closed.refuse(ProtocolError(1, "x", 0, "y"))

    assert f"no {form.layout.name} before WELCOME" == state_error(waiting, form).reason
    assert f"no {form.layout.name} after a fatal error" == state_error(closed, form).reason
    if form.layout.name != "HELLO":
        error = state_error(Session(OFFER), form)
        assert (ERROR["STATE"], "header.type", form.type) == (error.code, error.name, error.value)
        assert f"no {form.layout.name} before HELLO" == error.reason


@pytest.mark.parametrize("name", ["HELLO", "MAP", "UNMAP", "REMAP", "RESET", "PAUSE", "RESUME", "SHARE"])
def test_a_channel_carries_exits_only(name: str) -> None:
    """Memory, reset and the like belong to the primary connection."""
    error = refusal(lambda: opened(join=True).receive(pack(name)))

    assert (ERROR["STATE"], f"no {name} on a joined channel") == (error.code, error.reason)


def test_a_channel_carries_exits() -> None:
    """A joined channel takes what its vCPU's thread sends."""
    session = opened(join=True)

    assert isinstance(session.receive(encode_exit(RawExit(0, 1, VcpuState()))), Arrived)
    assert isinstance(session.receive(POSTED), PostedWrite)


@pytest.mark.parametrize("form", TO_CLIENT, ids=lambda form: form.layout.name)
def test_messages_have_a_direction(form: Form) -> None:
    """What goes to the client is unknown here."""
    error = state_error(opened(), form)

    assert (ERROR["UNKNOWN_TYPE"], f"{form.layout.name} goes to the client") == (error.code, error.reason)


def test_a_second_hello_is_refused() -> None:
    """A connection says HELLO once."""
    assert "no HELLO on the primary connection" == refusal(lambda: opened().receive(HELLO)).reason


def test_an_error_that_is_not_fatal_leaves_the_session_open() -> None:
    """After UNAVAILABLE the client may go on."""
    session = opened()

    session.refuse(ProtocolError(ERROR["UNAVAILABLE"], "header.type", 71, "later", fatal=False))

    assert State.PRIMARY is session.state


# --- capabilities, descriptors, vCPUs ------------------------------------------------


@pytest.mark.parametrize(
    ("data", "capability"),
    [
        (encode_exit(HaltExit(0, 1)), "INTR"),
        (encode_exit(AcknowledgeExit(0, 1)), "INTR"),
        (pack("EOI", line=1), "LEVELS"),
        (pack("MAP", 2, serial=1, length=0x1000), "MEMORY_MESSAGES"),
        (encode_exit(RawExit(0, 1, VcpuState(extended=ExtendedState(RegisterSet.SSE)))), "VECTORS"),
    ],
)
def test_messages_need_their_capability(data: bytes, capability: str) -> None:
    """What makes sense only with a capability is refused without it, and taken with it."""
    everything = Session(Offer((1 << 10) - 1, 0, 0, 8, 8, 8))
    everything.receive(Client("vm0", 4, required=CAPABILITY[capability]).hello())
    everything.welcome(TOKEN)

    error = refusal(lambda: opened(0).receive(data))

    assert ERROR["CAPABILITY"] == error.code
    assert error.reason.endswith(f"needs capability {capability}")
    assert everything.receive(data) == read(data)


MAP = pack("MAP", serial=5, slot=1, length=0x1000)
POSTED = encode_posted(PostedWrite(1, 1, 0, Access(Space.PIO, Direction.WRITE, 0x80, 1, 1)))


@pytest.mark.parametrize(
    ("data", "descriptors"),
    [
        (MAP, 1),
        (pack("RESTORE", serial=5, length=1), 1),
        (pack("SHARE", serial=5, slots=4, length=0x5000), 6),
        (pack("SAVE", serial=5), 0),
        (pack("UNMAP", serial=5, slot=1), 0),
        (encode_exit(TickExit(0, 5)), 0),
    ],
)
def test_descriptors_are_counted(data: bytes, descriptors: int) -> None:
    """A message comes with as many descriptors as its kind has; the error names the message."""
    assert opened().receive(data, descriptors) == read(data)
    for wrong in {0, 1, 2, descriptors + 1} - {descriptors}:
        error = refusal(lambda wrong=wrong: opened().receive(data, wrong))  # type: ignore[misc]
        assert (ERROR["DESCRIPTOR"], wrong, 5) == (error.code, error.value, error.subject)
        assert error.reason.endswith(f"comes with {descriptors}")


def test_memory_without_a_descriptor_brings_none() -> None:
    """NO_DESCRIPTOR means what it says."""
    session = Session(Offer((1 << 10) - 1, 0, 0, 8, 8, 8))
    session.receive(Client("vm0", 4, required=CAPABILITY["MEMORY_MESSAGES"]).hello())
    session.welcome(TOKEN)
    wire = pack("MAP", 2, serial=5, length=0x1000)

    event = session.receive(wire)

    assert isinstance(event, Map)
    assert event.no_descriptor
    assert ERROR["DESCRIPTOR"] == refusal(lambda: session.receive(wire, 1)).code


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encode_exit(RawExit(4, 1, VcpuState())), "exit_raw.exit.vcpu"),
        (encode_exit(TickExit(4, 1)), "exit_tick.exit.vcpu"),
        (patch(POSTED, "exit.vcpu", 4), "posted.exit.vcpu"),
        (pack("RESET", serial=1, vcpu=4), "reset.vcpu"),
    ],
)
def test_vcpus_are_those_of_hello(data: bytes, name: str) -> None:
    """The fifth of four vCPUs is refused by name."""
    error = refusal(lambda: opened().receive(data))

    assert (ERROR["RANGE"], name, 4, 1) == (error.code, error.name, error.value, error.subject)
    assert "the session has 4 vCPUs" == error.reason


def test_reset_of_the_machine_is_no_vcpu() -> None:
    """All ones passes where vCPU 4 does not."""
    assert Reset(1, None) == opened().receive(pack("RESET", serial=1, vcpu=0xFFFF_FFFF))


def test_an_exit_keeps_its_datagram() -> None:
    """The ledger tells a resend by the bytes."""
    data = encode_exit(TickExit(3, 9), 77)

    assert Arrived(TickExit(3, 9), 77, data) == opened().receive(data)
