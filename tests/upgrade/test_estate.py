"""The document between two programs."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from mmiod.attach import inheritance as functions
from mmiod.core import inheritance as tasks
from mmiod.errors import RestoreError
from mmiod.machine.plain import tagged, untagged
from mmiod.upgrade import estate as estates
from mmiod.upgrade.estate import KIND, SCHEMA, Estate, dump, load

for module in (functions, tasks, estates):
    for kind in vars(module).values():
        if isinstance(kind, type) and kind.__name__.endswith("Estate"):
            attrs.resolve_types(kind)  # or hypothesis does not know what to make
NAMES = st.text(max_size=3)
FUNCTIONS = st.dictionaries(NAMES, st.builds(functions.FunctionEstate), max_size=1)
TASKS = st.dictionaries(NAMES, st.builds(tasks.TaskEstate), max_size=1)
VMS = st.dictionaries(NAMES, st.builds(estates.VmEstate, functions=FUNCTIONS, backends=TASKS), max_size=1)
ESTATES = st.builds(Estate, kind=st.just(KIND), schema=st.just(SCHEMA), vms=VMS)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(ESTATES)
def test_what_is_written_is_read(estate: Estate) -> None:
    """Connections in the middle of a message, eventfds, bytes and requests that wait, and all else."""
    assert estate == load(dump(estate))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"x", "no JSON"),
        (b"[]", "kind and schema: this mmiod reads 'mmiod-inheritance', 1"),
        (b'{"kind": "mmiod-inheritance", "schema": 2}', "kind and schema"),
        (b'{"kind": "mmiod-inheritance", "schema": 1}', "required field missing"),
    ],
)
def test_what_is_no_such_document_is_refused(document: bytes, reason: str) -> None:
    """With the place; another version's is never half read."""
    with pytest.raises(RestoreError, match=reason):
        load(document)


KEYS = st.text(max_size=3) | st.sampled_from(["base85", "table"]) | st.integers(0, 3) | st.binary(max_size=2)
PLAIN = st.recursive(
    st.integers() | st.binary(max_size=4) | st.text(max_size=4) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(PLAIN)
def test_a_devices_state_is_the_same_behind_json(value: object) -> None:
    """Tables of requests by their numbers included, and tables that look like what stands for bytes."""
    state = {"value": value}
    assert state == untagged(json.loads(json.dumps(tagged(state))))
