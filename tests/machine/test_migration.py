"""A saved machine of another generation: up and down as far as `migrate` leads, else refused by name."""

from __future__ import annotations

import json
from base64 import b85encode
from typing import Any, ClassVar

import pytest
from attrs import define, field
from hypothesis import given, settings, strategies as st

from mmiod.device import Device, IrqOutput, Register, Timer
from mmiod.device.saved import Saved
from mmiod.errors import RestoreError
from mmiod.testing.subject import NAME, Subject
from mmiod.values import WRITE


@define
class First:
    """Of schema 1: bytes and numbers."""

    ticks: int = 0
    last: bytes = b""
    table: dict[str, int] = field(factory=dict)


@define
class Second:
    """`ticks` became `total`, `last` a list of such."""

    total: int = 0
    lasts: list[bytes] = field(factory=list)
    table: dict[str, int] = field(factory=dict)


@define
class Third(Second):
    """With something that has a default."""

    limit: int = 99


class Meter(Device):
    """A family of generations, each of which knows all the steps."""

    length = 4

    @classmethod
    def migrate(cls, saved: Saved, schema: int) -> None:
        """One step, either way."""
        state = saved.state
        match saved.schema, schema:
            case 1, 2:
                state["total"], state["lasts"] = state.pop("ticks"), [state.pop("last")]
                saved.timers = {"alarm": saved.timers["late"]} if saved.timers else {}
            case 2, 1:
                state["ticks"], state["last"] = state.pop("total"), state.pop("lasts")[0]
                saved.timers = {"late": saved.timers["alarm"]} if saved.timers else {}
            case 2, 3:
                saved.registers["mode"] = saved.registers.pop("control")
                saved.lines["out"] = saved.lines.pop("irq")
            case 3, 2:
                saved.registers["control"] = saved.registers.pop("mode")
                saved.lines["irq"] = saved.lines.pop("out")
                del state["limit"]
            case _:
                raise RestoreError(f"nothing leads from schema {saved.schema} to {schema}")


class MeterA(Meter):
    """The first."""

    state: First
    irq = IrqOutput()
    late = Timer()
    control = Register(0)


class MeterB(Meter):
    """State and timer have other names."""

    schema = 2
    state: Second
    irq = IrqOutput()
    alarm = Timer()
    control = Register(0)


class MeterC(Meter):
    """Register and line have other names."""

    schema = 3
    state: Third
    out = IrqOutput()
    alarm = Timer()
    mode = Register(0)


KINDS: dict[int, type[Meter]] = {1: MeterA, 2: MeterB, 3: MeterC}
for kind in KINDS.values():
    kind.__name__ = "Meter"
SCHEMAS = st.sampled_from(sorted(KINDS))
NAMES = st.sampled_from(["base85", "a", ""])


def meter(schema: int, value: int, last: bytes, table: dict[str, int], deadline: int | None) -> Subject:
    """A device in this state, which each schema says in its own words."""
    subject = Subject(KINDS[1])
    subject.device.state = First(value, last, table)
    subject.access("main", 0, 1, WRITE, value)
    subject.device.lines["irq"].set_level(bool(value & 1))
    if deadline is not None:
        subject.device.alarms["late"].set(deadline)
    return subject if schema == 1 else moved(subject, schema)


def moved(subject: Subject, schema: int) -> Subject:
    """Another machine with the state of this one."""
    other = Subject(KINDS[schema])
    other.restore(subject.saved())
    return other


@settings(max_examples=150)
@given(
    way=st.lists(SCHEMAS, min_size=2, max_size=5),
    value=st.integers(0, 255),
    last=st.binary(max_size=5),
    table=st.dictionaries(NAMES, st.integers(0, 9), max_size=2),
    deadline=st.none() | st.integers(1, 10**9),
)
def test_any_way_between_schemas_leads_back(
    way: list[int], value: int, last: bytes, table: dict[str, int], deadline: int | None
) -> None:
    """Saved with one schema, loaded with others, and back: nothing is lost and nothing is added."""
    subject = meter(way[0], value, last, table, deadline)
    before = subject.saved()
    for schema in [*way[1:], way[0]]:
        subject = moved(subject, schema)
        assert schema == json.loads(subject.saved())["devices"][NAME]["schema"]
    assert before == subject.saved()


def test_a_newer_class_has_what_the_older_one_saved() -> None:
    """Registers, lines, timers and state, by their new names; what is new has its default."""
    device = moved(meter(1, 0x41, b"xyz", {"a": 1}, 500), 3).device
    assert {"mode": 0x41} == device.values
    assert device.lines["out"].level
    assert 500 == device.alarms["alarm"].deadline_ns
    assert Third(0x41, [b"xyz"], {"a": 1}, limit=99) == device.state


def test_an_older_document_without_tags_migrates_with_bytes_as_text() -> None:
    """Documents of schema 2 say nowhere what is bytes; a step that only moves them does not mind."""
    document = json.loads(meter(1, 1, b"xyz", {}, None).saved())
    document["schema"], document["devices"][NAME]["state"]["last"] = 2, b85encode(b"xyz").decode()
    other = Subject(MeterB)
    other.restore(json.dumps(document).encode())
    assert [b"xyz"] == other.device.state.lasts


class Plain(MeterA):
    """An older class that knows of nothing newer."""

    @classmethod
    def migrate(cls, saved: Saved, schema: int) -> None:
        """As Device's."""
        Device.migrate.__func__(cls, saved, schema)  # type: ignore[attr-defined]


class Fails(MeterB):
    """Its step has a bug."""

    @classmethod
    def migrate(cls, saved: Saved, schema: int) -> None:
        """Look for a name that is not there."""
        del saved.state[f"missing{schema}"]


class Spoils(MeterB):
    """Its step leaves what is no state."""

    @classmethod
    def migrate(cls, saved: Saved, schema: int) -> None:
        """A text is no register."""
        saved.registers["control"] = f"{schema}"  # type: ignore[assignment]


def told(change: dict[str, Any]) -> bytes:
    """A document of schema 1, changed."""
    document = json.loads(meter(1, 1, b"", {}, 5).saved())
    document["devices"][NAME].update(change)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (Plain, {"schema": 2}, "devices.device.schema: 2, here it is 1: Meter does not override migrate"),
        (MeterC, {"schema": 4}, "schema: 4, here it is 3: nothing leads from schema 4 to 3"),
        (MeterA, {"schema": 10**18}, "more than 64 steps lead from schema 1000000000000000000 to 1"),
        (Fails, {}, "schema: 1, here it is 2: migrate: KeyError: 'missing2'"),
        (
            Spoils,
            {},
            "schema: 1, here it is 2: invalid value for type, expected int at $.registers['control']",
        ),
        (
            MeterA,
            {"registers": {"control": 1, "more": 2}},
            "devices.device.registers.more: the device has none",
        ),
        (MeterB, {"lines": {"irq": False, "x": True}}, "devices.device.lines.x: the device has none"),
        (
            MeterB,
            {"registers": {"control": 256}},
            "devices.device.registers.control: 0x100 does not fit 1 bytes",
        ),
    ],
)
def test_what_leads_nowhere_is_refused_by_name(
    kind: type[Device], change: dict[str, Any], message: str
) -> None:
    """With the device, both schemas and the reason; the machine is as it was."""
    kind.__name__ = "Meter"
    subject = Subject(kind)
    before = subject.saved()
    with pytest.raises(RestoreError) as refused:
        subject.restore(told(change))
    assert message in str(refused.value)
    assert before == subject.saved()
    assert subject.host.serves


class Grown(MeterA):
    """The same schema with more of everything."""

    schema: ClassVar[int] = 1
    extra = Register(1, reset=0x55)
    second = IrqOutput()
    soon = Timer()


def test_what_is_new_begins_as_declared() -> None:
    """A document that does not know of a register, line or timer says nothing of it."""
    Grown.__name__ = "Meter"
    subject = Subject(Grown)
    subject.device.values["extra"] = 3
    subject.device.lines["second"].set_level(True)
    subject.device.alarms["soon"].set(10)
    subject.restore(told({}))
    device = subject.device
    assert {"control": 1, "extra": 0x55} == device.values
    assert not device.lines["second"].level
    assert device.alarms["soon"].deadline_ns is None
    assert 5 == device.alarms["late"].deadline_ns
