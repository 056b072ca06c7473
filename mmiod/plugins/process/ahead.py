"""The processes of a plugin's next generation: started and ended beside the core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import trio

from mmiod.device import Device
from mmiod.errors import PluginError
from mmiod.machine.host import InlineHost
from mmiod.plugins.loader import Source
from mmiod.plugins.process.host import ProcessHost
from mmiod.plugins.process.texts import prepare
from mmiod.plugins.process.workers import SPAWNER, START_NS, Worker
from mmiod.plugins.question import AGAIN, Rejected, Verdict


async def start(hosts: Iterable[InlineHost], source: Source, plugin: type[Device]) -> None:
    """Start what devices in processes of their own need to be handed over, and wait for it.

    Raises:
        Rejected: a process does not come up.
    """
    isolated = [host for host in hosts if isinstance(host, ProcessHost)]
    for host in isolated:
        await trio.to_thread.run_sync(_wait, partial(host.start_ahead, source))
    if isolated:
        await trio.to_thread.run_sync(_wait, partial(prepare, plugin))
    for host in isolated:
        assert host.ahead is not None, "it was started"
        for worker in host.ahead.workers:  # the spare too, as it would take its share of the hand-over
            await _until_there(host, worker)
        try:
            host.greet_ahead()
        except PluginError as error:
            raise Rejected(
                Verdict(f"{host.machine.name}/{host.name}: {error}", AGAIN, source.path)
            ) from error


def notice(hosts: Iterable[InlineHost]) -> None:
    """Let devices fail whose process has ended, and nobody has seen that yet."""
    for host in hosts:
        if isinstance(host, ProcessHost):
            host.notice()


async def restartable(hosts: Iterable[InlineHost]) -> None:
    """Wait for what brings a device that failed to its last good state: a process of its generation.

    Raises:
        Rejected: it does not come up.
    """
    for host in hosts:
        if isinstance(host, ProcessHost) and not host.serves:
            await _until_there(host, host.spare())


def retire(hosts: Iterable[InlineHost]) -> None:
    """Let the processes that no device needs any more end, and do not wait for it."""
    for host in hosts:
        if isinstance(host, ProcessHost):
            for worker in host.retire():
                SPAWNER.submit(worker.end)


def _wait(action: Callable[[], None]) -> None:
    """Have an action done by the spawner."""
    SPAWNER.submit(action).result()


async def _until_there(host: ProcessHost, worker: Worker) -> None:
    with trio.move_on_after(START_NS / 1e9) as patience:
        await trio.lowlevel.wait_readable(worker.channel.socket.fileno())
    if patience.cancelled_caught:
        raise Rejected(
            Verdict(f"{host.machine.name}/{host.name}: its process takes too long to start", AGAIN)
        )
