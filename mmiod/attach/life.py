"""A VM's life as its hypervisor drives it: power, memory, reset, pause, save and restore, inputs.

PAUSE is acknowledged when the exits under way have run out, SAVE and RESTORE when backends have
done their part: both are looked at again after anything has happened (`_flush`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import define, field

from mmiod.attach.connection import Connection
from mmiod.attach.documents import begin_restore, begin_save, check_length, restored, saved
from mmiod.attach.flat import Flat
from mmiod.attach.session_state import SessionState, Transfer
from mmiod.attach.shared import SharedMemory
from mmiod.attach.signals import Signals
from mmiod.attach.slots import map_slot, remap_slot, unmap_slot
from mmiod.core.ports import Signal
from mmiod.errors import ProtocolError
from mmiod.protocol.exit import NUMBERS, Map, Pause, Remap, Reset, Restore, Resume, Save, Unmap, replies

if TYPE_CHECKING:
    from mmiod.machine.state import Restoration

ERROR: Final = NUMBERS["error"]


@define(eq=False)
class Life(Signals):
    """One machine, on, paused, or off."""

    shared: SharedMemory | None = None
    """The primary connection's."""
    ended: SharedMemory | None = None
    """The one before: who waits for its slots has yet to notice that they have ended."""
    _changed: Signal = field(factory=Signal)
    """Whether inputs are taken."""

    def _powered(self) -> SessionState:
        """The session; its first exit powers the machine on, when memory is mapped."""
        state = self._state()
        if not state.powered_on:
            state.powered_on = True
            self.machine.power_on(virtual=state.flights.virtual)
            if not state.flights.virtual:
                state.flat = Flat(self.lane, state.flights, state.ledger, self._flush)
            self._show()
            self._changed.set()
        return state

    def _on_map(self, connection: Connection, map_: Map, descriptors: list[int]) -> None:
        map_slot(self.machine.memory, map_, descriptors, self.offer.max_slots)
        connection.send(replies.ack(map_.serial))

    def _on_unmap(self, connection: Connection, unmap: Unmap, _descriptors: list[int]) -> None:
        unmap_slot(self.machine.memory, unmap)
        connection.send(replies.ack(unmap.serial))

    def _on_remap(self, connection: Connection, remap: Remap, _descriptors: list[int]) -> None:
        remap_slot(self.machine.memory, remap)
        connection.send(replies.ack(remap.serial))

    def _on_reset(self, connection: Connection, reset: Reset, _descriptors: list[int]) -> None:
        state = self._settled(reset.serial)
        self._look_again()  # what came before is dropped, too
        state.flights.drop(reset.vcpu)
        self.machine.breaks.let_go("reset", reset.vcpu)
        if reset.vcpu is None:
            self.machine.reset()
        connection.send(replies.ack(reset.serial))

    def _on_pause(self, _connection: Connection, pause: Pause, _descriptors: list[int]) -> None:
        state = self._settled(pause.serial)
        self._look_again()  # what was posted before is in what is saved
        state.ledger.paused = True
        state.pause_serial = pause.serial
        self._hide()

    def _on_resume(self, connection: Connection, resume: Resume, _descriptors: list[int]) -> None:
        state = self._settled(resume.serial)
        state.ledger.paused, state.pause_serial = False, None
        self.machine.clock.go()
        self._show()
        self._changed.set()
        connection.send(replies.ack(resume.serial))
        self._look_again()

    def _on_save(self, connection: Connection, save_: Save, _descriptors: list[int]) -> None:
        state = self._settled(save_.serial)
        if not state.ledger.paused or state.pause_serial is not None:
            raise _not_now("SAVE comes after the ACK of a PAUSE", save_.serial)
        begin_save(self.machine)
        self._transfer(state, connection, partial(self._saved, connection, save_))

    def _saved(self, connection: Connection, save_: Save) -> None:
        descriptor, length = saved(self.machine)
        connection.send(replies.ack(save_.serial, length), descriptor)

    def _on_restore(self, connection: Connection, restore_: Restore, descriptors: list[int]) -> None:
        state = self._state()
        if state.powered_on and not state.ledger.paused:
            raise _not_now("RESTORE comes before the first exit, or while paused", restore_.serial)
        check_length(restore_)
        self._settled(restore_.serial)
        restoration = begin_restore(self.machine, restore_, descriptors[0])
        self._transfer(state, connection, partial(self._restored, connection, restore_, restoration))

    def _restored(self, connection: Connection, restore_: Restore, restoration: Restoration) -> None:
        restored(self.machine, restore_, restoration)
        connection.send(replies.ack(restore_.serial))

    def _transfer(self, state: SessionState, connection: Connection, finish: Callable[[], None]) -> None:
        """Finish when backends have done their part; no exit comes in between."""
        state.transfer = Transfer(finish, connection, state.ledger.paused)
        state.ledger.paused = True
        self._hide()
        self._changed.set()

    def _settled(self, serial: int) -> SessionState:
        """The session, powered on, unless a SAVE or RESTORE is under way."""
        state = self._powered()
        if state.transfer is not None:
            raise _not_now("a SAVE or RESTORE is under way", serial)
        return state

    def _flush(self) -> None:
        """After anything happened: go on with what devices answered, acknowledge a PAUSE."""
        state = self.session
        if state is None:
            return
        state.flights.drain()
        if state.pause_serial is not None and not self._under_way(state):
            self.machine.clock.stop()
            serial, state.pause_serial = state.pause_serial, None
            if self.primary is not None:
                self.primary.send(replies.ack(serial))
        if state.transfer is not None and not self._under_way(state):
            transfer, state.transfer = state.transfer, None
            state.ledger.paused = transfer.paused
            try:
                transfer.finish()
            except ProtocolError as error:
                transfer.connection.refuse(error)
            self._show()
            self._look_again()

    def _under_way(self, state: SessionState) -> bool:
        """Whether a device owes an answer, or is owed one by its backend."""
        return any(state.flights.held_up()) or any(port.busy for port in self.machine.services.values())

    async def inject(self, action: Callable[[], None]) -> None:
        """Run an input of a device, and what follows from it; waits while the VM is off or paused."""
        while not self.inject_now(action):
            await self._changed.wait()

    def inject_now(self, action: Callable[[], None]) -> bool:
        """Do that, unless the VM is off or paused; whether it did."""
        if not self._takes_inputs():
            return False
        self.pump.work(partial(self._apply, action))
        return True

    def _takes_inputs(self) -> bool:
        state = self.session
        if state is None or not state.powered_on:
            return False
        return not state.ledger.paused or state.pause_serial is not None or state.transfer is not None

    def settle(self) -> None:
        """After devices did something that no input of ours caused: go on with what follows."""
        self._flush()

    def _apply(self, action: Callable[[], object]) -> None:
        action()
        self._flush()

    def _fire(self) -> None:
        self._apply(self.machine.clock.fire_due)

    def _look_again(self) -> None:
        """A pause is over."""
        if self.shared is not None:
            self.shared.look()

    def _show(self) -> None:
        """The machine is on, and may be seen."""
        state = self._state()
        if not state.ledger.paused:
            self.machine.breaks.go()
        if self.machine.page is not None and state.powered_on and not state.ledger.paused:
            self.machine.page.go()

    def _hide(self) -> None:
        self.machine.breaks.rest()
        if self.machine.page is not None:
            self.machine.page.stop()


def _not_now(reason: str, serial: int) -> ProtocolError:
    return ProtocolError(ERROR["STATE"], "header.type", 0, reason, subject=serial, fatal=False)
