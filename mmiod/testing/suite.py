"""What every device promises, whatever it is: a suite of tests for a plugin.

    from mmiod.testing import contract
    from mystery import Mystery

    test_contract = contract(Mystery)

The guest is hostile: any access, of any size, at any offset, with any value, among inputs
of all other kinds.  `MMIOD_CONTRACT_ACCESSES` in the environment sets how many there are.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from random import Random
from types import FunctionType, MethodType, ModuleType
from typing import Final

from attrs import field, frozen

from mmiod.device import Device
from mmiod.machine.context import DeviceContext
from mmiod.testing.published import check_posted, check_published
from mmiod.testing.subject import RAM, Answer, Input, Subject, inputs, value
from mmiod.values import READ, WRITE, ones

DEADLINE_NS: Final = 100_000_000
"""The daemon's default `hook_deadline`, here of CPU time."""
ACCESSES: Final = int(os.environ.get("MMIOD_CONTRACT_ACCESSES", "5000"))
GROWTH: Final = 1 << 13
SHORT: Final = 500
"""Inputs where the state is looked at, not the time that it takes to get there."""
ALL_OFFSETS: Final = 256
"""Regions up to this length are tried at every offset."""
SAMPLE: Final = 64
SIZES: Final = (1, 2, 3, 4, 8)
_SHARED: Final = (type, ModuleType, FunctionType, MethodType, DeviceContext)
"""What a device refers to and does not own."""
_NUMBERS: Final = itertools.count(1)


@frozen
class Terms:
    """One plugin and what its author knows of it."""

    plugin: type[Device]
    config: object | None = None
    services: Mapping[str, Answer] = field(factory=dict)
    accesses: int = ACCESSES
    growth: int = GROWTH
    """Bytes, and blocks of memory, by which accesses may let it grow."""

    def subject(self) -> Subject:
        """The device, after power-on."""
        return Subject(self.plugin, self.config, self.services)

    def worn(self, seed: int) -> Subject:
        """The device after a short hostile life."""
        subject = self.subject()
        for given in inputs(subject.device, seed, SHORT):
            subject.do(given)
        return subject


def answers_every_access(terms: Terms) -> None:
    """Every size at every offset is answered or refused, and no hook takes too long."""
    subject = terms.subject()
    with _no_collection():  # of others' garbage: it is not the hook's time
        for given in sweep(subject.device):
            before = time.thread_time_ns()
            subject.do(given)
            spent = time.thread_time_ns() - before
            assert spent < DEADLINE_NS, f"{given} took {spent // 1_000_000} ms"


@contextmanager
def _no_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def is_deterministic(terms: Terms) -> None:
    """The same inputs give the same answers, outputs and state."""
    first, second = terms.subject(), terms.subject()
    for given in inputs(first.device, 1, SHORT):
        assert first.do(given) == second.do(given), given
        assert first.around.digest == second.around.digest, f"outputs differ after {given}"
    assert first.document() == second.document()


def is_restored_as_saved(terms: Terms) -> None:
    """What was restored is what was saved, and goes on as if nothing had been."""
    for seed in range(2):
        subject, other = terms.worn(seed), terms.worn(seed + 100)
        document = subject.saved()
        other.settle()
        other.restore(document)
        # Whoever asks its backends anew then counts its requests otherwise.
        parts = {"registers", "lines", "inputs", "timers"} if other.around.asked else set(subject.document())
        other.machine.memory.write(0, subject.machine.memory.read(0, RAM))
        _check_alike(subject, other, parts)
        for given in inputs(subject.device, seed + 200, SHORT // 4):
            assert subject.do(given) == other.do(given), f"{given} is answered otherwise after a restore"
        _check_alike(subject, other, parts)


def _check_alike(subject: Subject, other: Subject, parts: Collection[str]) -> None:
    expected, actual = subject.document(), other.document()
    for part in parts:
        assert expected[part] == actual[part], part


def saves_every_register(terms: Terms) -> None:
    """A register that changes changes the saved state."""
    subject = terms.subject()
    for name, register in subject.device.declared.items():
        if not register.derived:
            before = subject.saved()
            subject.device.values[name] ^= 1
            assert before != subject.saved(), name
            subject.device.values[name] ^= 1


def is_reset(terms: Terms) -> None:
    """After a reset it is as after power-on with the same inputs and the same of what survives."""
    for seed in range(2):
        subject, fresh = terms.worn(seed), terms.subject()
        subject.settle()
        fresh.settle()
        fresh.machine.clock.advance_to(subject.machine.clock.now_ns)
        _equip(fresh.device, subject.device)
        for each in (subject, fresh):
            each.machine.reset()
        assert fresh.document() == subject.document()


def is_inspected_without_effect(terms: Terms) -> None:
    """Registers can be looked at in any state; that changes nothing and is not seen outside."""
    subject = terms.subject()
    for number, given in enumerate(inputs(subject.device, 2, SHORT)):
        subject.do(given)
        if not number % 50:
            subject.settle()
            before, outputs = subject.saved(), subject.around.outputs
            shown = subject.device.inspect()
            assert shown == subject.device.inspect()
            assert before == subject.saved()
            assert outputs == subject.around.outputs, "inspection does something to the outside"
            for name, found in shown.items():
                size = subject.device.declared[name].size
                assert 0 <= found <= ones(size), f"{name} is {found:#x}, which does not fit {size} bytes"


def does_as_many_at_once(terms: Terms) -> None:
    """A batch does what its accesses would have done."""
    subject, other = terms.worn(3), terms.worn(3)
    random = Random(3)  # noqa: S311  # the same each time, on purpose
    for region, offset, size in _elements(subject.device):
        data = subject.host.read_batch(region, offset, size, 8, 0)
        one_by_one = [other.access(region, offset, size, READ, 0) for _ in range(len(data) // size)]
        assert data == b"".join(one.to_bytes(size, "little") for one in one_by_one)
        values = [value(random, size) for _ in range(8)]
        data = b"".join(one.to_bytes(size, "little") for one in values)
        for one in values[: subject.host.write_batch(region, offset, size, data, 0)]:
            other.access(region, offset, size, WRITE, one)
        assert subject.document() == other.document(), f"{region}+{offset:#x}"


def shows_what_it_answers(terms: Terms) -> None:
    """What is published is what a message would answer, and that changes nothing."""
    subject = terms.subject()
    check_published(subject, inputs(subject.device, 6, SHORT // 2))


def posts_what_nobody_waits_for(terms: Terms) -> None:
    """A posted write changes no line, places nothing, asks for nothing; `unaffected_by` is true."""
    subject = terms.subject()
    check_posted(subject, inputs(subject.device, 7, SHORT // 2))


def does_not_grow(terms: Terms) -> None:
    """Whatever a guest does, what the device keeps stays small."""
    for what, grown in growth(terms).items():
        assert grown <= terms.growth, f"{terms.accesses} accesses let {what} grow by {grown}"


def growth(terms: Terms) -> dict[str, int]:
    """By how much hostile accesses let it grow, counted in three ways."""
    subject = terms.subject()
    block = [given for given in inputs(subject.device, 4, SHORT) if given[0] != "reset"]
    _repeat(subject, block, SHORT)
    before = _sizes(subject)
    _repeat(subject, block, terms.accesses)
    return {what: size - before[what] for what, size in _sizes(subject).items()}


PROMISES: Final = (
    answers_every_access,
    is_deterministic,
    is_restored_as_saved,
    saves_every_register,
    is_reset,
    is_inspected_without_effect,
    does_as_many_at_once,
    shows_what_it_answers,
    posts_what_nobody_waits_for,
    does_not_grow,
)


def contract(
    plugin: type[Device] | Path | str,
    *,
    config: object | None = None,
    services: Mapping[str, Answer] | None = None,
    accesses: int = ACCESSES,
    growth: int = GROWTH,
) -> Callable[..., None]:
    """A test for pytest, with one case for each promise.

    Args:
        plugin: the device class, or its file.
        config: an instance of its configuration class; the default, if left out.
        services: by name what answers requests to backends; others fail.
        accesses: how many hostile accesses there are.
        growth: bytes by which they may let the device grow.
    """
    import pytest  # noqa: PLC0415  # so that the harness alone does not need it

    terms = Terms(
        plugin if isinstance(plugin, type) else load(Path(plugin)),
        config,
        services or {},
        accesses,
        growth,
    )

    def test_contract(promise: Callable[[Terms], None]) -> None:
        promise(terms)

    return pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)(test_contract)


def load(path: Path) -> type[Device]:
    """The device class that a plugin's file, or package, defines.

    Raises:
        ValueError: it is no Python file, or defines none or several.
    """
    name = f"plugin_under_test_{next(_NUMBERS)}"
    package = [str(path.parent)] if path.name == "__init__.py" else None
    spec = spec_from_file_location(name, path, submodule_search_locations=package)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = module_from_spec(spec)
    sys.modules[name] = module  # attrs and typing look a class's module up
    spec.loader.exec_module(module)
    found = [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Device) and thing.__module__ == name
    ]
    if len(found) != 1:
        names = ", ".join(plugin.__name__ for plugin in found) or "none"
        raise ValueError(f"{path} must define one device class; it defines {names}")
    return found[0]


def sweep(device: Device) -> Iterator[Input]:
    """Reads and writes of every size at every offset; in long regions where registers are, and a sample."""
    random = Random(0)  # noqa: S311  # the same each time, on purpose
    for name, region in device.regions.items():
        for offset, size in itertools.product(_offsets(device, name, random), SIZES):
            if offset + size <= region.length:
                yield "access", (name, offset, size, READ, 0)
                for written in (0, ones(size), random.getrandbits(8 * size)):
                    yield "access", (name, offset, size, WRITE, written)


def _offsets(device: Device, name: str, random: Random) -> list[int]:
    length = device.regions[name].length
    if length <= ALL_OFFSETS:
        return list(range(length))
    ends = {offset for _, at, size in _elements(device, name) for offset in (at - 1, at, at + size - 1)}
    drawn = {random.randrange(length) for _ in range(SAMPLE)}
    return sorted(offset for offset in ends | drawn | {0, length - 1} if 0 <= offset < length)


def _elements(device: Device, only: str | None = None) -> Iterator[tuple[str, int, int]]:
    """Region, offset and size of registers, and the begin of each region."""
    for name, region in device.regions.items():
        if only in {None, name}:
            yield name, 0, max(1, region.implemented[0])
    for register in device.declared.values():
        home = register.region.name if register.region else next(iter(device.regions))
        if only in {None, home}:
            yield home, register.offset, register.size


def _repeat(subject: Subject, block: list[Input], count: int) -> None:
    for given in itertools.islice(itertools.cycle(block), count):
        subject.do(given)
    subject.settle()


def _sizes(subject: Subject) -> dict[str, int]:
    """How much there is, counted in three ways."""
    saved = len(subject.saved())
    gc.collect()
    return {
        "the saved state's bytes": saved,
        "the device's bytes": weight(subject.device),
        "memory, in blocks,": sys.getallocatedblocks(),
    }


def weight(device: Device) -> int:
    """Bytes of all that only the device holds, in its state or elsewhere."""
    left: list[object] = [vars(device)]
    seen, total = {id(device.context)}, 0
    while left:
        thing = left.pop()
        if id(thing) not in seen and not isinstance(thing, _SHARED):
            seen.add(id(thing))
            total += sys.getsizeof(thing)
            left += gc.get_referents(thing)
    return total


def _equip(device: Device, worn: Device) -> None:
    """Give a device what a reset leaves of another."""
    device.inputs.update(worn.inputs)
    for name, client in worn.clients.items():
        device.clients[name].number = client.number
    for name in worn.survives_reset:
        if name in worn.declared:
            device.values[name] = worn.values[name]
        elif name in worn.storages:
            device.pages[name].write(0, worn.pages[name].read(0, worn.storages[name].size))
        else:
            setattr(device.state, name, deepcopy(getattr(worn.state, name)))
