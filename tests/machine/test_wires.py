"""Lines: OR, and `*` written out."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mmiod.errors import MachineError
from mmiod.machine.description import Sinks
from mmiod.machine.wires import Wires, expand, hypervisor_line_of, vcpu_of

SOURCES = ["uart0.irq", "piix3.irq3", "piix3.irq4", "piix3.irq16", "piix3.irqs", "pic.intr"]
SINKS = ["pic.ir3", "pic.ir4", "pic.ir5", "piix3.pirq0"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_sink_is_the_or_of_its_sources(changes: list[tuple[str, bool]]) -> None:
    """A sink hears each change of the OR once, and nothing else."""
    wires, heard = Wires(), list[bool]()
    for source in "abc":
        wires.connect(source, "pic.ir5", heard.append)
    levels, expected = dict.fromkeys("abc", False), [False]
    for source, level in changes:
        wires.drive(source, level)
        levels[source] = level
        if any(levels.values()) != expected[-1]:
            expected.append(not expected[-1])
    assert expected[1:] == heard


def test_source_reaches_only_its_sinks() -> None:
    """One source may lead to two sinks; a line without a wire leads nowhere."""
    wires, heard = Wires(), list[tuple[str, bool]]()
    for sink in ("pic.ir4", "apic.in4"):
        wires.connect("uart0.irq", sink, lambda level, sink=sink: heard.append((sink, level)))  # type: ignore[misc]
    wires.drive("uart0.irq", level=True)
    wires.drive("rtc.irq", level=True)
    assert [("pic.ir4", True), ("apic.in4", True)] == heard


def test_star_joins_equal_numbers() -> None:
    """`a.irq* -> b.ir*`: only numbers that both have, and no other line of that prefix."""
    assert [("piix3.irq3", "pic.ir3"), ("piix3.irq4", "pic.ir4")] == expand(
        {"piix3.irq*": "pic.ir*"}, SOURCES, SINKS
    )
    assert [(f"piix3.irq{number}", f"hypervisor.{number}") for number in (3, 4, 16)] == expand(
        {"piix3.irq*": "hypervisor.*"}, SOURCES, SINKS
    )


def test_plain_wires_stay_as_they_are() -> None:
    """Device to device, to a vCPU, to the hypervisor's controller."""
    wires = {"uart0.irq": "pic.ir4", "pic.intr": "vcpu0.intr", "piix3.irq3": "hypervisor.3"}
    assert list(wires.items()) == expand(wires, SOURCES, SINKS)


def test_line_may_drive_several_sinks() -> None:
    """To two controllers, to a device and the hypervisor, also with numbers."""
    wires = {"uart0.irq": ("pic.ir4", "pic.ir5", "hypervisor.4"), "piix3.irq*": ("pic.ir*", "hypervisor.*")}
    assert [
        ("uart0.irq", "pic.ir4"),
        ("uart0.irq", "pic.ir5"),
        ("uart0.irq", "hypervisor.4"),
        ("piix3.irq3", "pic.ir3"),
        ("piix3.irq4", "pic.ir4"),
        *((f"piix3.irq{number}", f"hypervisor.{number}") for number in (3, 4, 16)),
    ] == expand(wires, SOURCES, SINKS)


def test_controller_may_serve_two_vcpus() -> None:
    """Its line goes to both; which of them asks for the vector is theirs to settle."""
    wires = {"pic.intr": ("vcpu0.intr", "vcpu1.intr")}
    assert [("pic.intr", "vcpu0.intr"), ("pic.intr", "vcpu1.intr")] == expand(wires, SOURCES, SINKS)


@pytest.mark.parametrize(
    ("wires", "problem"),
    [
        ({"uart0.int": "pic.ir4"}, "wire uart0.int -> pic.ir4: no output uart0.int; there is uart0.irq"),
        (
            {"uart0.irq": "pic.irq4"},
            "wire uart0.irq -> pic.irq4: no input pic.irq4; there is pic.ir3, pic.ir4, pic.ir5",
        ),
        ({"uart9.irq": "pic.ir4"}, "wire uart9.irq -> pic.ir4: no output uart9.irq; there is no such device"),
        ({"pic.intr": "vcpu0.x"}, "wire pic.intr -> vcpu0.x: no input vcpu0.x; there is no such device"),
        ({"uart0.irq*": "pic.ir*"}, "wire uart0.irq* -> pic.ir*: no line of equal number on both sides"),
        (
            {"uart0.irq": ("pic.ir4", "pic.irq4")},
            "wire uart0.irq -> pic.irq4: no input pic.irq4; there is pic.ir3, pic.ir4, pic.ir5",
        ),
        (
            {"pic.intr": "vcpu0.intr", "uart0.irq": ("pic.ir4", "vcpu0.intr")},
            "wire uart0.irq -> vcpu0.intr: pic.intr drives it, and one controller answers INTA",
        ),
        ({"pic.intr*": "pic.ir4"}, "wire pic.intr* -> pic.ir4: no output pic.intr*; there is pic.intr"),
    ],
)  # fmt: skip
def test_wire_that_leads_nowhere_is_refused(wires: dict[str, Sinks], problem: str) -> None:
    """The error has the wire, what is missing, and what there is."""
    with pytest.raises(MachineError) as raised:
        expand(wires, SOURCES, SINKS)
    assert (problem,) == raised.value.problems


def test_all_wrong_wires_are_told() -> None:
    """Two wrong wires are two problems."""
    with pytest.raises(MachineError) as raised:
        expand({"a.b": "pic.ir3", "uart0.irq*": "pic.ir*", "c.d": "e.f"}, SOURCES, SINKS)
    assert 4 == len(raised.value.problems)


@pytest.mark.parametrize(
    ("sink", "vcpu", "line"),
    [
        ("vcpu12.intr", 12, None),
        ("hypervisor.4", None, 4),
        ("vcpu.intr", None, None),
        ("vcpu0.intr2", None, None),
        ("hypervisor.x", None, None),
        ("hypervisor.4\n", None, None),
    ],
)
def test_names_of_the_hypervisors_side(sink: str, vcpu: int | None, line: int | None) -> None:
    """`vcpuN.intr` and `hypervisor.N`, and nothing like them."""
    assert (vcpu, line) == (vcpu_of(sink), hypervisor_line_of(sink))
