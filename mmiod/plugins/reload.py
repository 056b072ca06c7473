"""Reload: a plugin's next generation takes over in all VMs, while guests run.

Theory of operation.  A reload has three parts, and until the last step of the last one the
generation that serves is not touched:

1. *Check*, in a child process (`plugins.check`): everything that the plugin's code could do
   wrong it does there first.  The core serves meanwhile; it only takes the snapshots that
   the child is given, and the last accesses from the recorder.
2. *Load*, in a thread that gives way to the core: the files as the child had them become a
   module under a fresh name.  Nothing is read from disk again.  For a device in a process of
   its own the next process is started here, and its spare: the class in this one is a mirror's.
3. *Hand over*, in the core, in one step between two exits: for each instance a device of
   the new class is made, beside the one that serves, and takes its state; then all of them
   take over at once (`machine.handover`).  What a new device does meanwhile waits until it
   serves.  If one cannot be made, all are dropped.

So a rejection is an event with file, line, reason and remedy, and nothing else happened.
Only failures reject: that values differ is what an edit is for, so the accesses that the
child repeated are compared, and differences told in `device_reloaded`.

State goes by name through plain data, never by reference: no object of an old class is left
in a new device.  What an access waits for (`PENDING`) is in that state, and that it waits is
the host's, which stays; so do statistics, claims, wires, timers in the clock and requests
under way, which name the host.  A device in quarantine comes back into service: what it was
before the input that it failed at is handed over, by its journal.

The worker of a device in a process of its own serves until the hand-over, and is ended beside
the core after it; so is the one that was started ahead, where the hand-over comes to nothing.

`rollback` takes the way back with the class that is still loaded; what only the newer class
has is dropped and told.  Two generations of a plugin are kept; the class of an older one is
collected, but for those that were there at start, which the collector never looks at again.

Cancelled (the daemon stops) before the hand-over: nothing has happened.  That never waits.

Rejected: `importlib.reload` (old classes stay in instances); moving the instance by assigning
`__class__` (state that the new class does not know stays); the shadow check in the daemon
that DESIGN had: a hook would run twice on one machine, with effects.  The child has neither
guest memory nor backends, but both generations are equal there, and it may hang or crash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Final

import attrs
import structlog
import trio
from attrs import define, field, frozen

from mmiod import config as configuration
from mmiod.device import Device
from mmiod.errors import ConfigError, PluginError
from mmiod.machine.description import DeviceDescription
from mmiod.machine.handover import Handover, NotReady, prepare
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.plugins.beside import load
from mmiod.plugins.child import ask, portray
from mmiod.plugins.loader import Source, forget, read
from mmiod.plugins.meant import plugin_meant
from mmiod.plugins.process import ahead
from mmiod.plugins.question import Instance, Question, Rejected, Verdict
from mmiod.plugins.registry import Generation, Registry
from mmiod.plugins.rejection import SERVES, reject
from mmiod.trace import Recorder

STATE: Final = "`state` holds numbers, texts, bytes, lists and tables, as annotated: else restart the daemon"


Configs = dict[str, dict[str, object]]


@frozen
class Reloaded:
    """What a reload, or a rollback, has done."""

    plugin: str
    generation: int
    devices: Sequence[str]
    pause_us: int
    """For which no exit of any VM was served: the hand-over."""
    load_us: int
    """How long the new class was made beside that."""
    accesses: int
    """That the child repeated."""
    differing: int
    differences: Sequence[str]
    dropped: Sequence[str]


@define(eq=False)
class Reloader:
    """Reloads one plugin at a time."""

    registry: Registry
    machines: Mapping[str, Machine]
    described: Mapping[tuple[str, str], tuple[DeviceDescription, Path]]
    """By VM and device; the folder is the machine file's."""
    recorder: Recorder
    deadline_ns: int
    work: Callable[[Callable[[], None]], None]
    """Runs an action in the core, and what follows from it."""
    _lock: trio.Lock = field(factory=trio.Lock)

    async def reload(self, name: str) -> Reloaded:
        """Let a plugin's files, as they are now, serve.

        Args:
            name: the plugin's, or that of a device of it, as DEVICE or VM/DEVICE.

        Raises:
            UnknownPlugin, AmbiguousDevice: there is none, or more than one.
            Rejected: the old generation serves on; the event was sent.
        """
        plugin = plugin_meant(name, self.registry.current, self.machines.values())
        async with self._lock:
            try:
                source = self.registry.read(plugin)
                return await self._replace(plugin, source, None)
            except (Rejected, PluginError) as error:
                raise reject(plugin, self.registry.current[plugin].number, error) from error

    async def rollback(self, name: str) -> Reloaded:
        """Let the generation before serve again, with the state of the present one.

        Raises:
            UnknownPlugin, AmbiguousDevice: there is none, or more than one.
            Rejected: there is no generation before, or it does not take the state.
        """
        plugin = plugin_meant(name, self.registry.current, self.machines.values())
        async with self._lock:
            try:
                known = self._before(plugin)
                return await self._replace(plugin, known.source, known.plugin)
            except Rejected as error:
                raise reject(plugin, self.registry.current[plugin].number, error) from error

    async def reload_changed(self) -> list[str]:
        """Reload each plugin that `changed`; their names."""
        changed = self.changed()
        for name in changed:
            with contextlib.suppress(Rejected):  # the event tells
                await self.reload(name)
        return changed

    def changed(self) -> list[str]:
        """The plugins whose files are not those that were tried last; may be asked in any thread."""
        return [name for name in list(self.registry.current) if self._changed(name)]

    def _before(self, plugin: str) -> Generation:
        known = self.registry.previous.get(plugin)
        if known is None:
            raise Rejected(Verdict("it was not reloaded yet", "reload it: a rollback undoes that"))
        return known

    def _changed(self, name: str) -> bool:
        try:
            return read(name, self.registry.directories).files != self.registry.seen[name]
        except PluginError:
            return False  # being written, or gone: there is nothing to load

    # --- check -----------------------------------------------------------------------------

    async def _replace(self, plugin: str, source: Source, known: type[Device] | None) -> Reloaded:
        verdict = await self._check(plugin, source, drop=known is not None)
        started = perf_counter_ns()
        loaded = await load(source) if known is None else known
        hosts = [host for _, host in self._hosts(plugin)]
        try:
            await ahead.start(hosts, source, loaded)
            await self._restartable(hosts)
            configs = self._configs(plugin, loaded)
            load_us = (perf_counter_ns() - started) // 1000
            reloaded = self._hand_over(plugin, source, loaded, configs, back=known is not None)
        except BaseException:
            if known is None:
                forget(loaded.__module__)
            raise
        finally:
            ahead.retire(hosts)
        oldest = self.registry.advance(plugin, Generation(reloaded.generation, source, loaded))
        reloaded = attrs.evolve(
            reloaded,
            load_us=load_us,
            accesses=verdict.accesses,
            differing=verdict.differing,
            differences=verdict.differences,
        )
        structlog.get_logger().info("device_reloaded", **attrs.asdict(reloaded))
        if oldest is not None:
            await trio.to_thread.run_sync(forget, oldest.plugin.__module__)
        return reloaded

    async def _check(self, plugin: str, source: Source, *, drop: bool) -> Verdict:
        """Have a child check it.

        Raises:
            Rejected: it found something, or did not come back.
        """
        before = self.registry.current[plugin].source
        hosts = self._hosts(plugin)
        await self._restartable(host for _, host in hosts)
        instances: list[Instance] = []
        failures: list[NotReady] = []

        def portray_all() -> None:
            try:
                instances.extend(self._instance(machine, host) for machine, host in hosts)
            except NotReady as error:
                failures.append(error)

        self.work(portray_all)
        for error in failures:
            reason = f"the state of the generation that serves: {error}"
            raise Rejected.at(before.files, error.__cause__, reason, STATE) from error
        return await ask(Question(before, source, drop, self.deadline_ns, instances))

    async def _restartable(self, hosts: Iterable[InlineHost]) -> None:
        """Devices that failed, also those of which nobody knows it yet, can be brought to a good state."""
        isolated = list(hosts)
        self.work(partial(ahead.notice, isolated))
        await ahead.restartable(isolated)

    def _instance(self, machine: Machine, host: InlineHost) -> Instance:
        described, directory = self.described[machine.name, host.name]
        return portray(machine, host, described.config, directory, self.recorder)

    def _hosts(self, plugin: str) -> list[tuple[Machine, InlineHost]]:
        return [
            (machine, host)
            for machine in self.machines.values()
            for host in machine.hosts.values()
            if host.plugin == plugin
        ]

    # --- hand over ---------------------------------------------------------------------------

    def _configs(self, plugin: str, loaded: type[Device]) -> Configs:
        """The configuration of each instance, by machine, as the class takes it."""
        configs: Configs = {}
        try:
            for machine, host in self._hosts(plugin):
                described, directory = self.described[machine.name, host.name]
                config = configuration.configure(loaded, described, directory)
                configs.setdefault(machine.name, {})[host.name] = config
        except ConfigError as error:
            raise Rejected(Verdict("; ".join(error.problems), SERVES)) from error
        return configs

    def _hand_over(
        self, plugin: str, source: Source, loaded: type[Device], configs: Configs, *, back: bool
    ) -> Reloaded:
        """The pause."""
        number = self.registry.current[plugin].number + 1
        started = perf_counter_ns()
        handovers: list[Handover] = []
        failures: list[Rejected] = []

        def exchange() -> None:
            for vm, found in configs.items():
                try:
                    handovers.append(prepare(self.machines[vm], loaded, found, drop=back))
                except NotReady as error:
                    failures.append(Rejected.at(source.files, error.__cause__, f"{vm}/{error}", error.remedy))
                    return
            for handover in handovers:
                handover.commit(number)

        self.work(exchange)
        if failures:
            raise failures[0]
        pause_us = (perf_counter_ns() - started) // 1000
        devices = [f"{vm}/{device}" for vm, found in configs.items() for device in found]
        successors = [successor for handover in handovers for successor in handover.successors]
        dropped = [f"{made.host.name}: {name}" for made in successors for name in made.dropped]
        return Reloaded(plugin, number, devices, pause_us, 0, 0, 0, (), dropped)
