"""`mmiod-vmm`: a reference hypervisor whose devices are all behind an mmiod socket.

Exit status: what the guest or the operator asked for through mmiod (0 for a shutdown);
1 if the run ended in an error, 2 for wrong arguments, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mmiod.errors import MmiodError
from mmiod.protocol.exit.client import Client
from mmiod.protocol.exit.table import NUMBERS
from mmiod.vmm.clock import MAX_SHIFT, DaemonClock, InstructionClock
from mmiod.vmm.guest import GuestMemory
from mmiod.vmm.link import Link, connect_to

CAPABILITY: Final = NUMBERS["capability"]
NAME_LENGTH: Final = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a guest; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        firmware = options.firmware.read_bytes()
        memory = GuestMemory.create(options.memory, firmware)
    except (OSError, ValueError) as error:
        return _fail(str(error))
    try:
        return _run(options, memory)
    except ModuleNotFoundError as missing:
        if missing.name != "unicorn":
            raise
        return _fail("--accel unicorn needs the package unicorn: pip install 'mmiod[vmm]'")
    except MmiodError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130


def _fail(words: str) -> int:
    print(f"mmiod-vmm: {words}", file=sys.stderr)
    return 1


def _run(options: argparse.Namespace, memory: GuestMemory) -> int:
    from mmiod.vmm.unicorn import MAXPHYADDR
    from mmiod.vmm.vcpu import Vcpu

    client = Client(
        options.vm,
        vcpus=1,
        required=CAPABILITY["INTR"] | (0 if options.icount is None else CAPABILITY["GUEST_TIME"]),
        optional=CAPABILITY["REQUESTS"],
        vendor="mmiod-vmm",
        bitness=32,
        physical_bits=MAXPHYADDR,
    )
    counted = options.icount is not None
    link = Link(
        connect_to(str(options.socket)),
        client,
        memory.slots,
        patience=options.patience,
        follow_intr=not counted,
    )
    with contextlib.closing(link):
        link.open()
        vcpu = Vcpu(link, memory, InstructionClock(options.icount) if counted else DaemonClock())
        if counted:
            vcpu.cpu.count_time_stamps(vcpu.guest_ns)
        return vcpu.run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmiod-vmm", description="Run a guest whose devices are behind an mmiod socket."
    )
    parser.add_argument("--socket", type=Path, required=True, help="the VM's exit socket")
    parser.add_argument("--vm", type=_name, required=True, help="the VM's name in mmiod's configuration")
    parser.add_argument("--firmware", type=Path, required=True, help="image to place below 4 GiB")
    parser.add_argument("--memory", type=int, default=128, metavar="MIB", help="RAM in MiB (default: 128)")
    parser.add_argument("--accel", choices=["unicorn"], default="unicorn", help="what executes the guest")
    parser.add_argument(
        "--icount",
        type=_shift,
        metavar="shift=N",
        help=f"guest time is 2^N ns for each instruction, 0..{MAX_SHIFT} (default: real time)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long to look for a daemon that is not there (default: 10)",
    )
    return parser


def _shift(text: str) -> int:
    name, _, number = text.partition("=")
    if name != "shift" or not number.isdecimal() or int(number) > MAX_SHIFT:
        raise argparse.ArgumentTypeError(f"{text!r} is not shift=0 .. shift={MAX_SHIFT}")
    return int(number)


def _name(text: str) -> str:
    if not text.isascii() or not text.isprintable() or not 0 < len(text) <= NAME_LENGTH:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1..{NAME_LENGTH} printable ASCII characters")
    return text


if __name__ == "__main__":
    sys.exit(main())
