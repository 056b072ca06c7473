"""System control port A of the PS/2, at port 0x92: the fast ways to reset and to gate A20.

Specification: IBM Personal System/2 Hardware Interface Technical Reference, System Control
Port A; Intel ICH9 datasheet (316972), 13.7.3 PORT92.
"""

from __future__ import annotations

from mmiod.device import Device, Field, Register, Request

API = 1


class Port92(Device):
    """System control port A: INIT_NOW asks for a reset, ALT_A20_GATE is kept.

    INIT_NOW acts at each write of 1 and reads 0: the reset that it asks for clears it.
    Not modelled: the masking of address line 20 (memory is the hypervisor's, and always
    whole), the password lock, watchdog status and disk lights (all of them are storage).

    Threat: nothing grows; resets are the guest's right.
    """

    length = 1
    control = Register(
        0,
        fields={"INIT_NOW": Field(0, access="singlepulse"), "ALT_A20_GATE": Field(1)},
        published=True,
    )

    @control.on_write
    def _controlled(self, value: int) -> None:
        if value & 1:
            self.context.request(Request.RESET)
