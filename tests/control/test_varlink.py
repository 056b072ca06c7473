"""The wire of varlink."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.control.varlink import Call, Failure, Malformed, encode_failure, encode_reply, parse_call


def test_a_call_has_a_method_and_may_have_the_rest() -> None:
    """Only the method must be there; null stands for absent; unknown members are for later versions."""
    assert Call("a.B", {}) == parse_call(b'{"method":"a.B"}')
    assert Call("a.B", {"x": 1}, more=True) == parse_call(
        b'{"method":"a.B","parameters":{"x":1},"more":true,"oneway":null,"later":3}'
    )


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"", "a call is a JSON object: "),
        (b"{", "a call is a JSON object: "),
        (b'\xff{"method":"a.B"}', "a call is a JSON object: "),
        (b"[" * 5000, "a call is a JSON object: "),
        (b"[]", "a call is a JSON object, not list"),
        (b"{}", "a call without a method"),
        (b'{"method":3}', "method is 3: str was expected"),
        (b'{"method":"a.B","parameters":[]}', r"parameters is \[\]: dict was expected"),
        (b'{"method":"a.B","more":1}', "more is 1: bool was expected"),
        (b'{"method":"a.B","more":true,"oneway":true}', "a call with both more and oneway"),
    ],
)
def test_what_is_no_call_is_malformed(frame: bytes, message: str) -> None:
    """The error says which member is wrong and what it holds."""
    with pytest.raises(Malformed, match=message):
        parse_call(frame)


@settings(max_examples=200)
@given(
    st.binary(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.dictionaries(st.sampled_from(["method", "parameters", "more", "x"]), inner) | st.lists(inner)
        ),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_are_a_call_or_malformed(frame: bytes) -> None:
    """Nothing that a client sends raises anything else."""
    try:
        call = parse_call(frame)
    except Malformed:
        return

    assert isinstance(call, Call)


def test_frames_end_with_nul_and_hold_none() -> None:
    """Replies are JSON with a NUL behind, whatever is in them, also integers of more than 64 bits."""
    value = {"text": "\0é", "wide": 1 << 500}

    frames = [
        encode_reply(value),
        encode_reply(value, continues=True),
        encode_failure(Failure("a.B.C", **value)),
    ]

    assert [[-1]] * 3 == [
        [index - len(frame) for index, byte in enumerate(frame) if not byte] for frame in frames
    ]
    assert [
        {"parameters": value},
        {"parameters": value, "continues": True},
        {"error": "a.B.C", "parameters": value},
    ] == [json.loads(frame[:-1]) for frame in frames]
