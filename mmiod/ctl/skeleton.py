"""`mmioctl plugin new`: a device that runs, and its test, to be changed into another."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from typing import Final

from mmiod.errors import PluginError

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")

_HEAD: Final = '''\
"""NAME: say here what the hardware is.

Specification: document and section.
Not modelled: what a driver could look for and will not find.
"""

from __future__ import annotations

import enum

IMPORTS

API = 1


class Interrupt(enum.IntFlag):
    """Bits of INTERRUPT_STATUS."""

    DONE = 1 << 0


'''

_BODY: Final = """\
    identification = Register(0x0, size=4, access="r", reset=0x1AB1REGION)
    delay = Register(0x4, size=4REGION)
    interrupt_status = Register(0x8, size=4, access="w1c", mask=1, fields=InterruptREGION)

    @delay.on_write
    def _started(self, value: int) -> None:
        self.countdown.set(self.clock.now_ns + 1000 * value)

    @countdown.on_fire
    def _ended(self) -> None:
        self.interrupt_status |= Interrupt.DONE
        self._drive()

    @interrupt_status.on_write
    def _acknowledged(self, _value: int) -> None:
        self._drive()

    def _drive(self) -> None:
        LINE
"""

_PLAIN: Final = '''\
class CLASS(Device):
    """Counts DELAY microseconds down, then interrupts.  A hostile guest makes nothing grow."""

    length = 0x10
    irq = IrqOutput()
    countdown = Timer()

'''

_PCI: Final = '''\
class CLASS(PciFunction):
    """Counts DELAY microseconds down, then interrupts.  A hostile guest makes nothing grow."""

    identity = Identity(vendor=0x1234, device=0x1AB1, class_code=0xFF0000)
    interrupt_pin_number = 1
    registers = Bar(0x1000, number=0)
    countdown = Timer()

'''

_TEST: Final = '''\
"""Tests of NAME; `pytest` runs them, no daemon is needed."""

from __future__ import annotations

from mmiod.testing import Harness, contract

from NAME import CLASS

test_contract = contract(CLASS)
"""What every device promises, whatever it is."""


def test_done_after_the_delay() -> None:
    """DONE is set and the line is up until the driver acknowledges it."""
    device = Harness(CLASS)
    device.write("delay", 5)
    device.advance(4_999)
    assert not device.levels["LINE"]
    device.advance(1)
    assert device.read("interrupt_status") == 1
    assert device.levels["LINE"]
    device.write("interrupt_status", 1)
    assert device.read("interrupt_status") == 0
    assert not device.levels["LINE"]
'''

_IMPORTS: Final = {
    False: "from mmiod.device import Device, IrqOutput, Register, Timer",
    True: "from mmiod.device import Register, Timer\nfrom mmiod.device.pci import Bar, Identity, PciFunction",
}
_TAKEN: Final = frozenset(
    {"api", "bar", "contract", "device", "harness", "identity", "irq_output", "mmiod", "pci_function"}
    | {"pytest", "interrupt", "register", "timer"}
)
"""What the text of a device or of its test calls something else."""


def create(name: str, directory: Path, *, pci: bool) -> list[Path]:
    """Write `NAME.py` and `test_NAME.py`.

    Raises:
        PluginError: the name is no module's, or a file is there already; nothing was written.
    """
    if not _NAME.fullmatch(name):
        raise PluginError(f"{name!r}: a plugin's name begins with a-z and has a-z, 0-9 and _, 31 at most")
    if name in _TAKEN or keyword.iskeyword(name) or name in sys.stdlib_module_names:
        raise PluginError(f"{name!r} is taken by Python or by mmiod; choose another name")
    texts = {directory / f"{name}.py": _device(pci=pci), directory / f"test_{name}.py": _TEST}
    for path in texts:
        if path.exists():
            raise PluginError(f"{path} exists already; nothing is written")
    words = {"NAME": name, "CLASS": "".join(word.capitalize() for word in name.split("_"))}
    words["LINE"] = "intx" if pci else "irq"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(re.sub("|".join(words), lambda found: words[found[0]], text))
    except OSError as error:
        raise PluginError(f"{error.filename}: {error.strerror}") from error
    return list(texts)


def _device(*, pci: bool) -> str:
    drive = (
        "self.set_intx(bool(self.interrupt_status))"
        if pci
        else "self.irq.set_level(bool(self.interrupt_status))"
    )
    body = _BODY.replace("LINE", drive).replace("REGION", ", region=registers" if pci else "")
    return _HEAD.replace("IMPORTS", _IMPORTS[pci]) + (_PCI if pci else _PLAIN) + body
