"""An NVM Express controller with one namespace, which is a disk image.

Specification: NVM Express 1.4, whose sections comments name.
"""

from __future__ import annotations

from typing import Final

from attrs import field, frozen, validators

from mmiod.device import Register
from mmiod.device.block import Blocks, Medium
from mmiod.device.nvme.commands import Commands, NvmeState
from mmiod.device.nvme.identify import VERSION, Unit
from mmiod.device.nvme.queues import IO_QUEUES
from mmiod.device.nvme.registers import (
    CAPABILITIES,
    CAPABILITIES_VALUE,
    CONFIGURATION,
    QUEUE_ATTRIBUTES,
    Csts,
    opened,
)
from mmiod.device.pci import Bar, Command as PciCommand, Identity, MsiX, PcieFunction
from mmiod.device.work import Moves, Work

API = 1

VECTORS: Final = IO_QUEUES + 1
ADDRESS: Final = (1 << 64) - 0x1000


@frozen
class NvmeConfig:
    """What the guest is told."""

    serial: str = field(default="mmiod", validator=validators.matches_re(r"[!-~]{1,20}"))
    """Up to 20 characters of ASCII; two disks of a guest should have two."""


class Nvme(PcieFunction):
    """Admin and NVM commands as far as operating systems use them, with 8 pairs of I/O queues.

    Flush, Write, Read, Write Zeroes, and Dataset Management, which deallocates; FUA, and the
    write cache can be switched off.  Interrupts are MSI-X, one for each completion queue, or
    INTx.  It becomes ready when the image has said what it is; without one there is no active
    namespace.  A disabled controller lets requests to the image end, unheard.

    Not modelled: SGLs, fused commands, namespace management, metadata, firmware download,
    power states, formats, Compare, aborts (an Abort says that it aborted nothing), events but
    those of bad doorbells, the PCI power management capability.

    Threat: 32 commands are under way, with at most 512 KiB each, and abandoned ones among
    them; queues are in guest memory.  A reset of the machine leaves those to the backend, which
    bounds their number.
    """

    identity = Identity(0x1B36, 0x0010, 0x010802, revision=2, subsystem_vendor=0x1AF4, subsystem=0x1100)
    interrupt_pin_number = 1
    registers = Bar(0x4000, number=0, wide=True)
    msix = MsiX(0x80, vectors=VECTORS, table=(registers, 0x2000), pending=(registers, 0x3000))
    disk = Blocks()
    serving = Work()
    state: NvmeState
    config: NvmeConfig

    cap = Register(0x00, size=8, access="r", reset=CAPABILITIES_VALUE, fields=CAPABILITIES, region=registers)
    vs = Register(0x08, size=4, access="r", reset=VERSION, region=registers)
    intms = Register(0x0C, size=4, access="w1s", region=registers)
    intmc = Register(0x10, size=4, region=registers)
    cc = Register(0x14, size=4, mask=0x00FF_FFF1, fields=CONFIGURATION, region=registers)
    csts = Register(0x1C, size=4, access="r", fields=Csts, region=registers)
    aqa = Register(0x24, size=4, mask=0x0FFF_0FFF, fields=QUEUE_ATTRIBUTES, region=registers)
    asq = Register(0x28, size=8, mask=ADDRESS, region=registers)
    acq = Register(0x30, size=8, mask=ADDRESS, region=registers)
    doorbells = Register(0x1000, size=4, access="w", mask=0xFFFF, doorbell=True, region=registers).array(
        2 * VECTORS
    )

    def on_reset(self) -> None:
        """Ask the image what it is."""
        self.state.identification = self.disk.identify()

    def on_restore(self) -> None:
        """The image may be another one here."""
        super().on_restore()
        self.state.identification = self.disk.identify()

    def on_restart(self) -> None:
        """A run may be lost."""
        super().on_restart()
        self.serving.start()

    # --- registers

    @cc.on_write
    def _configured(self, value: int) -> None:
        enable = bool(CONFIGURATION["EN"].of(value))
        if self.state.enabled and not enable:
            self._disable()
        elif enable and not self.state.enabled:
            self.state.enabled = True
            self._open()
        if CONFIGURATION["SHN"].of(value):
            self._shut_down()
        else:
            self.csts &= ~Csts.SHST_COMPLETE

    def _open(self) -> None:
        """Get ready as soon as the image is known (7.6.1)."""
        if not self.state.enabled or self.state.identification or self.csts & (Csts.RDY | Csts.CFS):
            return
        if session := opened(self.cc, self.aqa, self.asq, self.acq):
            self.state.session = session
        self.csts |= Csts.RDY if session else Csts.CFS

    def _disable(self) -> None:
        """A controller reset (7.3.2) leaves the registers of the admin queues."""
        self.serving.cancel()
        self.state.disable()
        self.cc = self.csts = self.intms = 0
        self._drive()

    def _shut_down(self) -> None:
        """7.6.2: what was written is to outlive a loss of power."""
        if not self.csts & (Csts.SHST_OCCURRING | Csts.SHST_COMPLETE):
            self.csts |= Csts.SHST_OCCURRING
            self._close()

    def _close(self) -> None:
        """Flush, as soon as there is room for one more request."""
        asked = self.state.closing or not self.csts & Csts.SHST_OCCURRING
        if not asked and self.state.room > 0:
            self.state.closing = self.disk.flush()

    @intms.on_write
    def _masked(self, _value: int) -> None:
        self._drive()

    @intmc.value
    def _mask(self) -> int:
        return self.intms

    @intmc.on_write
    def _unmasked(self, value: int) -> None:
        self.intms &= ~value
        self._drive()

    @doorbells.on_write
    def _rung(self, doorbell: int, value: int) -> None:
        if self.csts & Csts.RDY:
            self.state.session.ring(doorbell, value)
            self._drive()
            self.serving.start()

    def capability_written(self, value: int = 0) -> None:
        """Bus mastering may be on now, or interrupts may be others."""
        super().capability_written(value)
        self._drive()
        self.serving.start()

    def _drive(self) -> None:
        """The pin is for those without MSI-X; bits of the mask are vectors (7.5)."""
        waiting = any(
            queue.interrupting and not self.intms >> queue.vector & 1
            for queue in self.state.session.completions
        )
        self.set_intx(waiting and not self.msix.enabled(self))

    # --- commands

    @property
    def _commands(self) -> Commands:
        identity = self.identity
        unit = Unit(self.config.serial, self.state.medium, identity.vendor, identity.subsystem_vendor)
        vectors = VECTORS if self.msix.enabled(self) else 1
        return Commands(self.state, self.disk, unit, vectors, self._interrupt)

    @serving.on_run
    def _serve(self) -> Moves:
        if self.command & PciCommand.BUS_MASTER:
            yield from self._commands.serve()

    def _interrupt(self) -> None:
        for queue in self.state.session.completions:
            if queue.owed:
                queue.owed = False
                self.send_message(queue.vector)
        self._drive()

    @disk.on_reply
    def _replied(self, number: int, data: bytes) -> None:
        if number == self.state.identification:
            self._identified(Medium.of(data))
        elif number == self.state.closing:
            self._closed()
        else:
            self._commands.answered(number, data)
            self._close()
            self.serving.start()

    @disk.on_failure
    def _failed(self, number: int, reason: str) -> None:
        if number == self.state.identification:
            self.context.notify("disk_failed", reason=reason)
            self._identified(Medium())
        elif number == self.state.closing:
            self._closed()
        else:
            if self._commands.failed(number):
                self.context.notify("disk_failed", reason=reason)
            self._close()
            self.serving.start()

    def _identified(self, medium: Medium) -> None:
        self.state.medium, self.state.identification = medium, 0
        self._open()

    def _closed(self) -> None:
        self.state.closing = 0
        self.csts = self.csts & ~Csts.SHST_OCCURRING | Csts.SHST_COMPLETE
