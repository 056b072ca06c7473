"""The base class of all device models.

A device is a synchronous, deterministic state machine: every input arrives as the call
of a hook, every output leaves through its faces.  Its state is `values` (registers),
`state` (an attrs class of its own, named by annotation), the levels of its lines and
the deadlines of its timers; the framework resets, saves and restores all of it.

    class PitState: ...                     # attrs.define, every field with a default

    class Pit8254(Device):
        counters = Region(4)                # or `length = 4` where there is one region
        state: PitState                     # created anew by every reset
        config: PitConfig                   # structured from the machine file
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs

from mmiod.device.buffers import Buffer
from mmiod.device.contradictions import check_policies
from mmiod.device.declarations import (
    Channel,
    Declaration,
    IrqInput,
    IrqInputs,
    IrqOutput,
    IrqOutputs,
    Line,
    Region,
    Requests,
    Stream,
    Timer,
)
from mmiod.device.dispatch import Answerer, HookAnswerer, RegisterAnswerer
from mmiod.device.doorbells import Doorbell, declared_doorbells
from mmiod.device.fifo import Fifo
from mmiod.device.registers import Register, RegisterArray
from mmiod.device.storage import Pages, Storage, check_storage
from mmiod.device.work import Work
from mmiod.errors import DeclarationError, RestoreError

if TYPE_CHECKING:
    from mmiod.device.faces import Bus, Clock, Context, Memory, Pending
    from mmiod.device.saved import Saved
    from mmiod.values import Space

API: Final = 1
"""The version of this contract; a plugin may say `API = 1` and is checked at load."""

MAIN: Final = "main"
"""The region of a device that says `length` and declares none."""


@attrs.define
class Empty:
    """The state or configuration of a device that declares none."""


class Device:
    """One device model; a subclass is a plugin's, an instance belongs to one VM.

    Tier 1: set `length` and override `read` and `write`.  Tier 2, the usual: declare
    registers, and hooks only where there is behaviour.
    """

    length: ClassVar[int] = 0
    """Bytes of the region `main`, for a device that declares no `Region`."""
    schema: ClassVar[int] = 1
    """The version of the saved state: counts changes of what registers and `state` mean."""
    survives_reset: ClassVar[frozenset[str]] = frozenset()
    """Names of registers, storages and fields of `state` that a reset leaves (battery-backed)."""

    regions: Mapping[str, Region] = {}  # a device may have its own: see `resize`
    declared: ClassVar[Mapping[str, Register]] = {}
    fifos: ClassVar[Mapping[str, Fifo]] = {}
    outputs: ClassVar[Mapping[str, IrqOutput | IrqOutputs]] = {}
    input_lines: ClassVar[Mapping[str, IrqInput | IrqInputs]] = {}
    input_of: ClassVar[Mapping[str, IrqInput | IrqInputs]] = {}
    """By the name of the single line, as wires write it."""
    timers: ClassVar[Mapping[str, Timer]] = {}
    streams: ClassVar[Mapping[str, Stream]] = {}
    services: ClassVar[Mapping[str, Requests]] = {}
    works: ClassVar[Mapping[str, Work]] = {}
    askers: ClassVar[Mapping[str, Requests | Work]] = {}
    """What sends requests: services, and works by message."""
    storages: ClassVar[Mapping[str, Storage]] = {}
    storage_homes: ClassVar[Mapping[str, str]] = {}
    """The region of each storage, by name."""
    answerers: ClassVar[Mapping[str, Answerer]] = {}
    state_class: ClassVar[type[Any]] = Empty
    config_class: ClassVar[type[Any]] = Empty

    state: Any
    config: Any

    def __init_subclass__(cls, **rest: object) -> None:
        """Collect the declarations and refuse what cannot be right."""
        super().__init_subclass__(**rest)
        found = _declarations(cls)
        _refuse_reserved_names(found)
        _refuse_replaced(cls)
        cls.regions = _of(found, Region)
        if cls.length and not cls.regions:
            main = Region(cls.length)
            main.name = MAIN
            cls.regions = {MAIN: main}
        cls.declared = _registers(found)
        cls.outputs = _of(found, IrqOutput) | _of(found, IrqOutputs)
        cls.input_lines = _of(found, IrqInput) | _of(found, IrqInputs)
        cls.input_of = {name: line for line in cls.input_lines.values() for name in line.names()}
        cls.timers = _of(found, Timer)  # works among them
        cls.streams = _of(found, Stream)
        cls.services = _of(found, Requests)
        cls.works = _of(found, Work)
        cls.askers = {**cls.services, **cls.works}
        cls.state_class = _annotated(cls, "state")
        cls.config_class = _annotated(cls, "config")
        cls.fifos = _of(found, Fifo)
        cls.storages = _of(found, Storage)
        check_storage(cls.__name__, cls.storages.values())
        others = [*_of(found, Buffer).values(), *cls.fifos.values(), *cls.storages.values()]
        cls.answerers = _answerers(cls, [*cls.declared.values(), *others])
        cls.storage_homes = {name: _home(cls, storage).name for name, storage in cls.storages.items()}
        _check_fifos(cls)
        check_policies(cls.declared)

    def __init__(self, context: Context, config: object | None = None) -> None:
        """Make an instance; the machine resets it before the first access."""
        self.context = context
        self.config = self.config_class() if config is None else config
        self.state = self.state_class()
        self.values: dict[str, int] = {name: register.reset for name, register in self.declared.items()}
        self.lines = {
            name: Line(context, name) for output in self.outputs.values() for name in output.names()
        }
        self.inputs = {name: False for line in self.input_lines.values() for name in line.names()}
        self.jobs = {name: work.alarm(self) for name, work in self.works.items()}
        self.alarms = {name: timer.alarm(self) for name, timer in self.timers.items()} | self.jobs
        self.channels = {name: Channel(context, name) for name in self.streams}
        self.clients = {name: service.client(context) for name, service in self.services.items()}
        self.pages = {
            name: Pages(context, self.storage_homes[name], storage.offset, storage.size)
            for name, storage in self.storages.items()
        }
        self.copy = 0
        """In a region with a stride: which copy of its registers the access at hand meets."""

    def resize(self, region: Region, length: int) -> None:
        """In `__init__`: let this device's region have another length, as its configuration says."""
        own = copy(region)
        own.length = length
        self.regions = {**self.regions, region.name: own}

    @property
    def working(self) -> bool:
        """Whether a run of a work may be unfinished."""
        return any(job.deadline_ns is not None for job in self.jobs.values())

    @property
    def clock(self) -> Clock:
        """The guest's clock."""
        return self.context.clock

    @property
    def memory(self) -> Memory:
        """Guest memory, for DMA."""
        return self.context.memory

    @property
    def bus(self) -> Bus:
        """The VM's address spaces, for bridges."""
        return self.context.bus

    def reset(self) -> None:
        """Return to the state after power-on, except what `survives_reset`; then `on_reset`."""
        for job in self.jobs.values():
            job.cancel()
        fields = self.survives_reset - self.declared.keys() - self.storages.keys()
        kept = {name: getattr(self.state, name) for name in fields}
        self.state = self.state_class()
        for name, value in kept.items():
            setattr(self.state, name, value)
        for name, register in self.declared.items():
            if name not in self.survives_reset:
                self.values[name] = register.reset
        for name, pages in self.pages.items():
            if name not in self.survives_reset:
                pages.clear()
        for alarm in self.alarms.values():
            alarm.cancel()
        for line in self.lines.values():
            line.set_level(False)
        self.on_reset()
        for channel in self.channels.values():
            channel.ready()

    def on_reset(self) -> None:
        """Override to finish a reset: registers and state are as declared, lines are low."""

    def on_settle(self) -> None:
        """Override to bring up to date what follows from the state: it runs after each input's hook.

        An access, a level, bytes, a reply, a timer, a reset; an input within a hook has its own.
        """

    def on_restore(self) -> None:
        """Override to act on a restored state, as a function does that places its regions."""

    def on_reload(self) -> None:
        """Override to act on a change of the class itself: state and surroundings are as they were."""

    def on_restart(self) -> None:
        """Override to look for what came while the device was out of service, and was lost.

        State is as it was before the failure; what the framework kept for it has come already.
        """

    @classmethod
    def migrate(cls, saved: Saved, schema: int) -> None:
        """Override to change what another generation saved by one step, from `saved.schema` to `schema`.

        It is asked of the class with the higher schema, up or down, once for each step.
        """
        raise RestoreError(
            f"{cls.__name__} does not override migrate: nothing leads from schema {saved.schema} to {schema}"
        )

    def doorbell_writes(self) -> Iterable[Doorbell]:
        """Override to say which writes are doorbells that need no exit: of registers with `rings`."""
        only = next(iter(self.regions), "")
        return declared_doorbells(self.declared, only)

    def announced(self) -> Mapping[str, tuple[Space, int]]:
        """Override to say where the device tells the guest that others are, by configuration key.

        The machine refuses a machine file in which no device is there.
        """
        return {}

    def read(self, offset: int, size: int) -> int | Pending:
        """Tier 1: answer a read of `size` bytes at `offset` of region `main`."""
        raise NotImplementedError

    def write(self, offset: int, size: int, value: int) -> Pending | None:
        """Tier 1: take a write of `size` bytes at `offset` of region `main`."""
        raise NotImplementedError

    def complete(self, value: int = 0) -> None:
        """Answer the access that got `PENDING`; `value` is a read's."""
        self.context.complete(value)

    def inspect(self) -> dict[str, int]:
        """Every register's value by name, without side effects."""
        return {name: register.__get__(self, type(self)) for name, register in self.declared.items()}


_RESERVED: Final = frozenset(dir(Device)) | {
    "state",
    "config",
    "context",
    "values",
    "lines",
    "inputs",
    "alarms",
    "channels",
    "clients",
    "jobs",
    "pages",
    "copy",
}


Claimant = Register | Buffer | Fifo | Storage
Declared = Declaration | Claimant | RegisterArray


def _declarations(cls: type[Device]) -> dict[str, Declared]:
    """All declarations, those of base classes first, in the order they were written."""
    found: dict[str, Declared] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            found.pop(name, None)
            if isinstance(value, Declared):
                found[name] = value
    return found


def _refuse_replaced(cls: type[Device]) -> None:
    """See that no base's declaration is replaced by an unrelated base's attribute of that name."""
    for name in {name for base in cls.__mro__ for name in _declared_by(base)}:
        first, *others = [base for base in cls.__mro__ if name in vars(base)]
        for base in others:
            if not issubclass(first, base):
                raise DeclarationError(
                    f"{first.__name__} and {base.__name__} both have {name}; "
                    f"declare it in {cls.__name__}, or call one otherwise"
                )


def _declared_by(cls: type[Any]) -> Iterator[str]:
    return (name for name, value in vars(cls).items() if isinstance(value, Declared))


def _of(found: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if isinstance(value, kind)}


def _registers(found: Mapping[str, Declared]) -> dict[str, Register]:
    """The registers, those of arrays among them under their own names."""
    registers: dict[str, Register] = {}
    for declared in found.values():
        elements = declared.registers if isinstance(declared, RegisterArray) else (declared,)
        for register in elements:
            if isinstance(register, Register):
                if register.name in registers:
                    raise DeclarationError(f"two registers are called {register.name}")
                registers[register.name] = register
    return registers


def _check_fifos(cls: type[Device]) -> None:
    """See that `state` has the elements of FIFOs."""
    fields = attrs.fields_dict(cls.state_class)
    for name in cls.fifos.keys() - fields.keys():
        raise DeclarationError(
            f"{name}: a FIFO's elements are the field {name} of `state`; {cls.state_class.__name__} has none"
        )


def _refuse_reserved_names(found: dict[str, Declared]) -> None:
    for name in found.keys() & _RESERVED:
        raise DeclarationError(
            f"{name} is a name of Device itself; call the {type(found[name]).__name__} otherwise"
        )


def _annotated(cls: type[Device], name: str) -> type[Any]:
    """The attrs class that an annotation `state: X` or `config: X` names."""
    for base in cls.__mro__:
        if base is Device:
            return Empty
        annotation = inspect.get_annotations(base).get(name)
        if annotation is None:
            continue
        if isinstance(annotation, str):
            annotation = typing.get_type_hints(base)[name]
        if not attrs.has(annotation):
            raise DeclarationError(
                f"{cls.__name__}.{name} is annotated {annotation!r}, which is no attrs class"
            )
        return typing.cast("type[Any]", annotation)
    return Empty


def _answerers(cls: type[Device], claimants: list[Claimant]) -> dict[str, Answerer]:
    answerers = {name: _answerer(cls, region) for name, region in cls.regions.items()}
    for register in claimants:
        region = _home(cls, register)
        answerer = answerers.get(region.name)
        if not isinstance(answerer, RegisterAnswerer) or answerer.region is not region:
            raise DeclarationError(
                f"{register.name}: region {region.name} is answered by hooks, or not this device's"
            )
        answerer.add(register)
    return answerers


def _answerer(cls: type[Device], region: Region) -> Answerer:
    if region.reader and region.writer:
        return HookAnswerer(region.reader, region.writer, region.batch_reader, region.batch_writer)
    if region.reader or region.writer:
        raise DeclarationError(f"region {region.name} has one of on_read and on_write; it needs both")
    if region.batch_reader or region.batch_writer:
        raise DeclarationError(f"region {region.name} takes batches but has no on_read and on_write")
    overridden = (cls.read is not Device.read, cls.write is not Device.write)
    if region.name == MAIN and any(overridden):
        if not all(overridden):
            raise DeclarationError(f"{cls.__name__} overrides one of read and write; it needs both")
        return HookAnswerer("read", "write")
    return RegisterAnswerer(region)


def _home(cls: type[Device], register: Claimant) -> Region:
    """The region of a register; a subclass may have replaced it by one of the same name."""
    region = register.region
    if region is None:
        return _only_region(cls, register)
    inherited = any(vars(base).get(region.name) is region for base in cls.__mro__)
    return cls.regions.get(region.name, region) if inherited else region


def _only_region(cls: type[Device], register: Claimant) -> Region:
    if len(cls.regions) != 1:
        raise DeclarationError(f"{register.name} must name its region: {cls.__name__} has {len(cls.regions)}")
    return next(iter(cls.regions.values()))
