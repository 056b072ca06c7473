"""A VM that reaches its devices by vfio-user: a socket for each PCI function, one machine behind.

The machine is powered on when the first client attaches and off when the last one has
gone; in between a function whose client goes is reset alone.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from attrs import define, field

from mmiod.attach.function import FunctionAttachment
from mmiod.core.ports import Signal
from mmiod.core.pump import Pump
from mmiod.core.timekeeper import keep_time
from mmiod.device import Request
from mmiod.device.pci import PciFunction
from mmiod.errors import MachineError
from mmiod.machine.address_map import Stretch
from mmiod.machine.machine import Machine

if TYPE_CHECKING:
    from mmiod.attach.flights import Flights


def check_functions(machine: Machine) -> None:
    """See that a machine is of PCI functions only: vfio-user reaches nothing else.

    Raises:
        MachineError: with every device that is none.
    """
    wrong = [
        f"devices.{name}: {host.plugin} is no PCI function, and vfio-user reaches nothing else"
        for name, host in machine.hosts.items()
        if not isinstance(host.device, PciFunction)
    ]
    if wrong:
        raise MachineError(*wrong)


def check_unmapped(machine: Machine) -> None:
    """See that no hypervisor is to map what only vfio-user lets it map.

    Raises:
        MachineError: with every device of which it is.
    """
    if machine.mappable:
        raise MachineError(
            *(
                f"devices.{name}.mmap: only by vfio-user is storage mapped"
                for name in sorted(machine.mappable)
            )
        )


@define(eq=False)
class FunctionsAttachment:
    """vfio-user joined to one machine."""

    machine: Machine
    pump: Pump
    deadline_s: float
    """How long an access may wait for a device."""
    functions: dict[str, FunctionAttachment] = field(factory=dict)
    """By device."""
    _on: bool = False
    _changed: Signal = field(factory=Signal)
    _listeners: list[socket.socket] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        """Become the machine's outlet."""
        self.machine.outlet = self
        self.machine.breaks.bound(int(self.deadline_s * 1e9))
        for name, host in self.machine.hosts.items():
            self.functions[name] = FunctionAttachment(
                self.machine, host, self.pump, self.deadline_s, self._came, self._gone, self.settle
            )

    @property
    def attached(self) -> bool:
        """Whether any function has a client."""
        return any(function.client is not None for function in self.functions.values())

    @property
    def flights(self) -> Flights | None:
        """There are no exits here."""
        return None

    def listen(self, device: str, listener: socket.socket) -> None:
        """Take connections to a function from a bound, listening socket."""
        listener.setblocking(False)
        self.functions[device].path = str(Path(listener.getsockname()).absolute())
        self._listeners.append(listener)
        self.pump.register(listener.fileno(), partial(self._accept, self.functions[device], listener))

    def _accept(self, function: FunctionAttachment, listener: socket.socket, _events: int) -> None:
        try:
            accepted, _ = listener.accept()
        except OSError as error:
            self.machine.notify("connection_not_accepted", device=function.host.name, error=str(error))
            return
        function.accept(accepted)

    async def run(self) -> None:
        """Keep the machine's time and the deadlines of accesses, until cancelled."""
        async with trio.open_nursery() as nursery:
            for function in self.functions.values():
                function.waits.nursery = nursery
            await keep_time(self.machine.clock, partial(self.pump.work, self._fire))

    @property
    def on(self) -> bool:
        """Whether the machine is powered on."""
        return self._on

    def resume(self) -> None:
        """Power the machine on without a reset: it is about to get the state in which it was."""
        self._on = True
        self.machine.clock.power_on(virtual=False)
        self._changed.set()

    async def rest(self) -> None:
        """Begin no more messages of any client, and end those that were begun."""
        self.pump.work(partial(self._apply, self.machine.breaks.rest))
        async with trio.open_nursery() as nursery:
            for function in self.functions.values():
                nursery.start_soon(function.rest)

    def go_on(self) -> None:
        """End the rest."""
        self.machine.breaks.go()
        for function in self.functions.values():
            self.pump.work(function.go_on)

    def _came(self) -> None:
        if not self._on:
            self._on = True
            self.machine.power_on(virtual=False)
            self._changed.set()

    def _gone(self) -> None:
        if not self.attached:
            self._on = False
            self.machine.clock.stop()

    async def inject(self, action: Callable[[], None]) -> None:
        """Run an input of a device, and what follows from it; waits while the VM is off."""
        while not self.inject_now(action):
            await self._changed.wait()

    def inject_now(self, action: Callable[[], None]) -> bool:
        """Do that, unless the VM is off; whether it did."""
        if not self._on:
            return False
        self.pump.work(partial(self._apply, action))
        return True

    def _fire(self) -> None:
        self._apply(self.machine.clock.fire_due)

    def _apply(self, action: Callable[[], object]) -> None:
        action()
        self.settle()
        for function in self.functions.values():
            function.look_again()

    async def withdrawn(self) -> None:
        """By vfio-user nothing stands there."""

    def settle(self) -> None:
        """Hand on what devices have answered meanwhile."""
        while self.machine.settled:
            host, value = self.machine.settled.pop(0)
            self.functions[host.name].settled(value)

    def stop(self) -> None:
        """Take nothing new; answer what waits for a device with all ones."""
        for listener in self._listeners:
            self.pump.unregister(listener.fileno())
            listener.close()
        self._listeners.clear()
        for function in self.functions.values():
            function.stop()

    # --- towards the hypervisor (the machine's outlet) -------------------------------------------

    def intr(self, vcpu: int, level: bool) -> None:
        """No interrupt controller is reached by vfio-user."""

    def set_level(self, line: int, level: bool) -> None:
        """No interrupt controller is reached by vfio-user."""

    def msi(self, device: str, address: int, data: int) -> None:
        """A device signals an interrupt by a message."""
        self.functions[device].message(address, data)

    def request(self, kind: Request, value: int) -> None:
        """vfio-user has no word for what a device asks; the machine has told it to people."""

    def map_changed(self, *_moved: Stretch) -> None:
        """The client places BARs; records tell where they are."""
        self.unlearn()

    def unlearn(self) -> None:
        """Accesses go another way now."""
        for function in self.functions.values():
            if function.flat is not None:
                function.flat.forget()
