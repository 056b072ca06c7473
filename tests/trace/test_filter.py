"""The filter language."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.trace import FilterError, Record, parse
from mmiod.trace.filter import KEYS, MAX_LENGTH
from mmiod.trace.record import COLUMNS

ONES = 0xFFFF_FFFF
WRITE_LCR: Record = (12345678, "vm0", 2, 7, 1, 1, 0x3FB, 1, 0x83, "uart0", 1, "lcr", "ok", 4100, 0xF1234, 1)
READ_NOBODY: Record = (12345679, "vm1", 0, 9, 0, 0, 0xFED40000, 4, ONES, "", 0, "", "unclaimed", 0, -1, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (True, True)),
        ("   ", (True, True)),
        ("device==uart0", (True, False)),
        ("device == UART0", (True, False)),
        ("device==uart*", (True, False)),
        ("device==u?rt0", (True, False)),
        ("device==uart", (False, False)),
        ("device!=uart*", (False, True)),
        ("register==LCR", (True, False)),
        ("register==l*", (True, False)),
        ("vm==vm1", (False, True)),
        ("vcpu==2", (True, False)),
        ("direction==write", (True, False)),
        ("direction==w", (True, False)),
        ("direction==r", (False, True)),
        ("direction!=READ", (True, False)),
        ("space==pio", (True, False)),
        ("space!=pio", (False, True)),
        ("status==unclaimed", (False, True)),
        ("address>=0x3f8 and address<=0x3ff", (True, False)),
        ("address==1019", (True, False)),
        ("size>1", (False, True)),
        ("size<4", (True, False)),
        ("value!=0x83", (False, True)),
        ("value > 0x82 AND value < 0x84", (True, False)),
        ("device==uart0 and register==LCR and direction==write and address>=0x3f8", (True, False)),
        ("device==uart0 and direction==read", (False, False)),
    ],
)
def test_filter_lets_through(text: str, expected: tuple[bool, bool]) -> None:
    """What a filter says of a write to a UART's LCR and of a read that nobody claims."""
    found = parse(text)

    assert expected == (found.matches(WRITE_LCR), found.matches(READ_NOBODY))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "dev==uart0",
            f"'dev' is no key; a filter knows {', '.join(KEYS)}",
        ),
        ("device", "'' stands behind device; there must be one of == != <= >= < >"),
        ("device=uart0", "'=' stands behind device; there must be one of == != <= >= < >"),
        ("device==", "'' stands behind device==; there must be a value"),
        ("device== ==x", "'==' stands behind device==; there must be a value"),
        ("device>uart0", "'>' stands behind device; names are == or !="),
        ("address==uart0", "'uart0' is no number; address is compared with one, such as 16 or 0x10"),
        ("direction==up", "'up' is no direction; there are read, write, r, w"),
        ("direction<read", "'<' stands behind direction; names are == or !="),
        ("space==ram", "'ram' is no space; there are mmio, pio, pci_config, msr"),
        ("size==1 or size==2", "'or' stands behind size==1; conditions are joined by 'and'"),
        ("size==1 size==2", "'size' stands behind size==1; conditions are joined by 'and'"),
        ("size==1 and", "there must be a condition on both sides of 'and'"),
        ("and size==1", "there must be a condition on both sides of 'and'"),
        ("and", "there must be a condition on both sides of 'and'"),
    ],
)
def test_error_names_the_word(text: str, message: str) -> None:
    """A filter that cannot be read says which word is wrong and what it could have been."""
    with pytest.raises(FilterError) as caught:
        parse(text)

    assert message == str(caught.value)


def test_length_is_bounded() -> None:
    """A filter comes from a socket, so it may not be of any length."""
    with pytest.raises(FilterError, match=f"a filter of 5000 characters; {MAX_LENGTH} are the most"):
        parse("x" * 5000)


def test_covers_says_what_is_looked_at() -> None:
    """A filter's first words to its reader: what it sees, in its own normal form."""
    assert "every access that reaches mmiod" == parse("").covers
    expected = "accesses that reach mmiod with device==uart* and value>0x10"
    assert expected == parse(" device ==uart*  and value> 0x10").covers


def test_may_match_looks_at_names_alone() -> None:
    """Whether any access to a device can pass, so that a filter on nothing can be told."""
    found = parse("vm==vm0 and device==uart* and direction==write and value==3")

    assert [True, False, False] == [
        found.may_match("vm0", "uart0"),
        found.may_match("vm1", "uart0"),
        found.may_match("vm0", "pit"),
    ]


COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@settings(max_examples=150)
@given(
    key=st.sampled_from(["vcpu", "address", "size", "value"]),
    sign=st.sampled_from(sorted(COMPARISONS)),
    wanted=st.integers(0, 8),
    present=st.integers(0, 8),
    spelling=st.sampled_from(["{}", "{:#x}", "{:#b}"]),
)
def test_numbers_compare_as_python_does(
    key: str, sign: str, wanted: int, present: int, spelling: str
) -> None:
    """Each numeric key looks at its own column, in every spelling of a number."""
    columns: list[int | str] = list(WRITE_LCR)
    columns[COLUMNS.index(key)] = present

    assert COMPARISONS[sign](present, wanted) == parse(f"{key}{sign}{spelling.format(wanted)}").matches(
        tuple(columns)  # type: ignore[arg-type]  # a record with one column changed
    )


WORDS = [*"=!<>*?[]0x ", *KEYS, "and ", "\x00", "é", "write", "9" * 400]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=12).map("".join))
def test_any_text_is_a_filter_or_an_error(text: str) -> None:
    """No text makes the parser fail in another way; what it takes can be applied."""
    try:
        found = parse(text)
    except FilterError:
        return

    assert found.matches(WRITE_LCR) in {True, False}


def test_names_are_those_that_have_to_be() -> None:
    """Of a column, as written; not what is a pattern, or what it must not be."""
    wanted = parse("device==Uart0 and device==u* and device!=pit and vm==a? and register==[l]cr and vm==b")
    assert (["Uart0"], ["b"], []) == tuple(wanted.names(key) for key in ("device", "vm", "register"))
