"""A device in processes of its own, from one generation to the next.

The worker of the next generation is started ahead, beside the core, as its spare is.  In the
hand-over it is given the state of the one that serves, and both are there until one of them
is the device; the other is ended, beside the core again.
"""

from __future__ import annotations

from pathlib import Path

from attrs import define, field

from mmiod.device import Context, Device
from mmiod.device.saved import Saved
from mmiod.errors import RestoreError
from mmiod.machine.context import DeviceContext
from mmiod.machine.description import DeviceDescription
from mmiod.machine.machine import Machine
from mmiod.machine.mark import RemoteError
from mmiod.machine.snapshot import give
from mmiod.plugins.loader import Source
from mmiod.plugins.process.lives import WorkerHost, mirror_of
from mmiod.plugins.process.texts import as_text, from_text
from mmiod.plugins.process.workers import Worker


@define(eq=False)
class Ahead:
    """The processes of a device's next generation: the one that succeeds, and its spare."""

    source: Source
    worker: Worker
    spare: Worker

    @property
    def workers(self) -> tuple[Worker, Worker]:
        """Both."""
        return self.worker, self.spare


@define(eq=False)
class ProcessHost(WorkerHost):
    """The host of such a device."""

    ahead: Ahead | None = None
    """Of a reload that is under way."""
    _retired: list[Worker] = field(factory=list)

    def workers(self) -> list[Worker]:
        """Those of all generations."""
        return [*super().workers(), *(() if self.ahead is None else self.ahead.workers), *self._retired]

    def close(self) -> None:
        """The daemon ends."""
        super().close()
        self.ahead, self._retired = None, []

    def last_good(self) -> tuple[Saved, bool]:
        """What the device is, or was before it failed, and whether it owes an answer.

        Raises:
            RemoteError: no process can live through the journal now.
        """
        saved = self.guarded(self.snapshot, None) if self.serves else None
        if saved is not None:
            return saved, self.owes is not None
        if not self.ready:
            raise RemoteError("the process that would live through its journal is not there yet")
        try:
            return super().last_good()
        finally:
            self._dismiss()

    def succeed(
        self, plugin: type[Device], config: object, context: Context, saved: Saved, *, drop: bool
    ) -> tuple[Device, list[str]]:
        """The mirror of a device of another class, in the process that was started ahead for it."""
        assert self.ahead is not None, "nobody hands over without"
        clock, text = self.machine.clock, as_text(type(self.device), saved)
        mirror = mirror_of(plugin, context, config)
        message = ("succeed", text, drop, clock.now_ns, clock.wall_s)
        refused, text, dropped = self.ahead.worker.exchange(mirror, message, self.deadline_ns)
        if refused:
            raise RestoreError(refused)
        give(mirror, from_text(plugin, text))
        return mirror, [str(name) for name in dropped]

    @property
    def by_chance(self) -> bool:
        """Also if its process ended before the input did anything: somebody else may have killed it."""
        return self._silent or super().by_chance

    def install(self, device: Device, generation: int, *, owing: bool) -> None:
        """Let the process that was started ahead be the device; those before wait for their end."""
        assert self.ahead is not None, "the device is there"
        super().install(device, generation, owing=owing)
        self._retired = super().workers()
        self.source, self.worker, self._spare = self.ahead.source, *self.ahead.workers
        self.ahead = None

    def start_ahead(self, source: Source) -> None:
        """Start the processes of the next generation; does not wait for them."""
        worker = Worker.start(source, self.settings, self.directory, self.source)
        self.ahead = Ahead(source, worker, Worker.start(source, self.settings, self.directory))

    def greet_ahead(self) -> None:
        """See that the next generation's process is there.

        Raises:
            PluginError: it does not come up.
        """
        assert self.ahead is not None, "it was started"
        self._greet(self.ahead.worker)

    def retire(self) -> list[Worker]:
        """The processes that no device needs, after a reload or a failed one: to be ended."""
        retired, self._retired = self._retired, []
        if self.ahead is not None:
            retired += self.ahead.workers
            self.ahead = None
        return retired


def process_host(
    source: Source,
    described: DeviceDescription,
    directory: Path,
    deadline_ns: int,
    machine: Machine,
    name: str,
    part: tuple[type[Device], object],
) -> ProcessHost:
    """Make the host of a device, and bring its worker up.

    Raises:
        PluginError: the worker does not start, or does not make the device.
    """
    plugin, config = part
    context = DeviceContext(machine, name)
    host = ProcessHost(
        name,
        described.plugin,
        mirror_of(plugin, context, config),
        machine,
        number=len(machine.hosts) + 1,
        journal=context.journal,
        source=source,
        settings=described.config,
        directory=directory,
        deadline_ns=deadline_ns,
        machine=machine,
    )
    host.begin()
    return host
