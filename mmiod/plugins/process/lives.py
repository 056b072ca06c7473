"""A device whose hooks run in a process of its own: `isolation = "process"`.

The waist is that of a device in this process, and so are order, journal, quarantine and
restart.  Only the table of inputs differs: each one is a message to the worker, and this
call waits for its answer, as a hook never waits for anything and its deadline is short.
What the hook does to its surroundings comes before the answer and is done here.

`device` is a mirror: an instance of the class whose hooks are never called.  It has what
the machine needs to know, which are declarations, levels of lines, deadlines of timers.

A worker that fails in any way is killed.  The next one was started long before, and becomes
the device by the snapshot and the journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from attrs import define, field

from mmiod.device import Context, Device, Register
from mmiod.device.dispatch import RegisterAnswerer
from mmiod.device.saved import Saved
from mmiod.errors import PluginError
from mmiod.machine.host import InlineHost
from mmiod.machine.inputs import INPUTS, QUESTIONS, skip
from mmiod.machine.journal import Entry
from mmiod.machine.machine import Machine
from mmiod.machine.mark import HookDeadlineExceeded, RemoteError
from mmiod.machine.serving import Relived
from mmiod.machine.snapshot import give
from mmiod.plugins.loader import Source
from mmiod.plugins.process.channel import WorkerGone
from mmiod.plugins.process.texts import as_text, from_text, to_text
from mmiod.plugins.process.workers import Worker
from mmiod.values import Direction


@define(eq=False)
class WorkerHost(InlineHost):
    """The host of such a device, for one generation of it."""

    source: Source = field(kw_only=True)
    settings: Mapping[str, object] = field(kw_only=True)
    """The device's configuration as the machine file has it."""
    directory: Path = field(kw_only=True)
    deadline_ns: int = field(kw_only=True)
    machine: Machine = field(kw_only=True)
    worker: Worker | None = None
    _spare: Worker | None = None
    _silent: bool = False
    """Whether the last process ended without a word about the input that it had."""
    _restored: bool = False

    def __attrs_post_init__(self) -> None:
        """Inputs are messages."""
        self.inputs = {kind: partial(self._input, kind) for kind in (*INPUTS, *QUESTIONS)}

    isolated: ClassVar[bool] = True

    # --- workers -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Bring the first worker up; the next one starts already.

        Raises:
            PluginError: it does not start, or does not make the device.
        """
        try:
            self._become(())
        except (WorkerGone, RemoteError, HookDeadlineExceeded) as error:
            self.close()
            raise PluginError(str(error) or "making it takes too long") from error

    def relive(self, entries: Sequence[Entry]) -> Relived:
        """A worker where these entries end, and its mirror.

        Raises:
            PluginError, WorkerGone, RemoteError, HookDeadlineExceeded: it failed on the way.
        """
        return self.machine.mark.unwatched(partial(self._become, entries))

    def _become(self, entries: Sequence[Entry]) -> Relived:
        journal, plugin = self.journal, type(self.device)
        text = None if journal.snapshot is None else as_text(plugin, journal.snapshot)
        if self.worker is None:
            self.worker, self._spare = self.spare(), None
            self._greet(self.worker)
            self._spare = self._start()
        message = ("begin", text, list(entries), journal.owing, journal.refused)
        owing, inputs, saved = self._exchange(message, self.deadline_ns * (1 + len(entries)))
        mirror = mirror_of(plugin, self.device.context, self.device.config)
        give(mirror, from_text(plugin, saved))
        return Relived(mirror, bool(owing), int(inputs))

    def _greet(self, worker: Worker) -> None:
        """Wait for a worker, and tell what its confinement lacks."""
        missing = worker.ready()
        if missing:
            self.machine.notify("isolation_incomplete", device=self.name, missing=missing)

    @property
    def ready(self) -> bool:
        """Whether the next worker has loaded its plugin, or will never."""
        return self.spare().speaks

    def spare(self) -> Worker:
        """The next worker, started now if there is none."""
        self._spare = self._spare or self._start()
        return self._spare

    def _start(self) -> Worker:
        return Worker.start(self.source, self.settings, self.directory)

    def _fail(self, reason: BaseException) -> None:
        """The device is out of service, and its process ends."""
        self._silent = isinstance(reason, WorkerGone) and self.worker is not None and self.worker.silent
        super()._fail(reason)
        self._dismiss()

    def notice(self) -> None:
        """Fail if the process has ended: one that was told nothing says nothing."""
        if self.worker is not None and self.worker.speaks:
            self.quarantine(WorkerGone("its process has ended"))

    def _dismiss(self) -> None:
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.end()

    def close(self) -> None:
        """The daemon ends."""
        for worker in self.workers():
            worker.end()
        self.worker = self._spare = None

    def workers(self) -> list[Worker]:
        """The one that serves, and the spare."""
        return [worker for worker in (self.worker, self._spare) if worker is not None]

    # --- what an inline device does by itself --------------------------------------------------

    def register_at(self, region: str, offset: int, size: int, direction: Direction) -> str:  # noqa: ARG002
        """The registers that may be there: in which bank the device is only its process knows."""
        if self.failure is not None:
            return ""
        answerer = self.device.answerers[region]
        if not isinstance(answerer, RegisterAnswerer):
            return ""
        return "/".join(claimant.name for claimant in answerer.candidates(offset, direction))

    def value_of(self, declared: Register) -> int:
        """A register, without side effects."""
        clock = self.machine.clock
        value = self._exchange(("inspect", declared.name, clock.now_ns, clock.wall_s), self.deadline_ns)
        if not isinstance(value, int):
            raise RemoteError(f"{declared.name} is {value!r:.80}")
        return value

    def restored(self) -> None:
        """The mirror has a restored state: the worker gets it with the next snapshot, when timers are set."""
        self._restored = True

    def refresh(self) -> None:
        """Bring the mirror to what the device is now."""
        if self.serves:
            self.guarded(self._refresh, None)

    def _refresh(self) -> None:
        give(self.device, self.snapshot())

    def snapshot(self) -> Saved:
        """What the device is now; the worker knows."""
        message: tuple[Any, ...] = ("save",)
        if self._restored:
            self._restored = False
            clock, clients = self.machine.clock, self.device.clients
            restored = {name: client.restored for name, client in clients.items()}
            message = ("give", to_text(self.device), restored, clock.now_ns, clock.wall_s)
        return from_text(type(self.device), self._exchange(message, self.deadline_ns))

    # --- messages ------------------------------------------------------------------------------

    def _input(self, kind: str, device: Device, *arguments: Any) -> Any:  # noqa: ANN401
        if kind in INPUTS:
            skip(device, kind, arguments)
        plain = tuple(int(given) if isinstance(given, Direction) else given for given in arguments)
        clock = self.machine.clock
        return self._exchange((kind, plain, clock.now_ns, clock.wall_s), self.deadline_ns)

    def _exchange(self, message: tuple[Any, ...], budget_ns: int) -> Any:  # noqa: ANN401
        if self.worker is None:
            raise WorkerGone("it has no process")
        return self.worker.exchange(self.device, message, budget_ns)


def mirror_of(plugin: type[Device], context: Context, config: object) -> Device:
    """An instance that no code of the plugin has seen."""
    mirror = plugin.__new__(plugin)
    Device.__init__(mirror, context, config)
    return mirror
