"""The short way of a raw exit: one register loaded from or stored to one device.

Nearly every exit is that.  Its plan has a direct form (`mmiod.x86.direct`), so that
nothing has to be cut, probed or stepped through.  Whatever else it turns out to be is
left to the plan, before anything was done.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from mmiod.core import bus
from mmiod.core.translation import PAGE
from mmiod.values import Done, Space
from mmiod.x86 import SLOW

if TYPE_CHECKING:
    from mmiod.core.translation import Translation
    from mmiod.machine.machine import Machine
    from mmiod.machine.waist import Named
    from mmiod.x86 import Direct


def run_direct(
    machine: Machine, translation: Translation, direct: Direct
) -> Generator[Named, int | None, Done | None]:
    """Execute; None if the plan has to: it faults, or is not within one page and one device.

    Raises:
        GuestFault, Suspend: of the translation; nothing was done.
    """
    vcpu, size = translation.exit.state, direct.size
    address = direct.linear(vcpu)
    if address == SLOW or address % PAGE + size > PAGE:
        return None
    gpa = translation.translate(address, direct.intent)
    found = machine.find(Space.MMIO, gpa)
    if found.claim is None or gpa + size > found.end or not translation.confirmed:
        return None
    value = yield from bus.access(machine, found, gpa, size, direct.direction, direct.value(vcpu))
    return Done(direct.delta(vcpu, value))
