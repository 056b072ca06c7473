"""`mmiod-vmm`: a reference hypervisor whose devices are all behind an mmiod socket.

Exit status: what the guest or the operator asked for through mmiod (0 for a shutdown);
1 if the run ended in an error, 2 for wrong arguments, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from math import nan
from pathlib import Path
from typing import Final

from attrs import frozen

from mmiod.errors import MmiodError
from mmiod.protocol.exit.client import Client
from mmiod.protocol.exit.table import NUMBERS
from mmiod.vmm.accelerator import Accelerator
from mmiod.vmm.clock import MAX_SHIFT, DaemonClock, InstructionClock
from mmiod.vmm.fixtures import Fixtures
from mmiod.vmm.guest import GuestMemory
from mmiod.vmm.link import HandOver, Link
from mmiod.vmm.slot import OFFERED
from mmiod.vmm.vcpu import Vcpu
from mmiod.vmm.wire import Alarm, connect_to

CAPABILITY: Final = NUMBERS["capability"]
NAME_LENGTH: Final = 32
MAX_DESCRIPTOR: Final = (1 << 31) - 1
MAX_PATIENCE_S: Final = 86_400


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a guest; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.icount is not None and options.accel != "unicorn":
        parser.error("--icount needs --accel unicorn: KVM counts no instructions")
    if options.irqchip == "kernel" and options.accel != "kvm":
        parser.error("--irqchip kernel needs --accel kvm: the kernel's controllers are KVM's")
    if options.vectors and options.accel != "kvm":
        parser.error("--vectors needs --accel kvm: Unicorn has SSE at most")
    try:
        firmware = options.firmware.read_bytes()
        memory = GuestMemory.create(options.memory, firmware, options.memory_fd)
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
    engine = _ENGINES[options.accel](options)
    counted = options.icount is not None
    link = Link(
        connect_to(str(options.socket)),
        _client(options, engine),
        memory.slots,
        patience=options.patience,
        follow_intr=not counted,
        alarm=engine.alarm,
    )
    clock = InstructionClock(options.icount) if counted else DaemonClock()
    vcpu = Vcpu(link, memory, clock, engine.build, options.hand_over)
    with contextlib.closing(link):
        link.open()
        try:
            return vcpu.run()
        finally:
            if options.stats:
                print(f"mmiod-vmm: {link.tally}", file=sys.stderr)


def _client(options: argparse.Namespace, engine: _Engine) -> Client:
    required = {"LEVELS", "MSI"} if options.irqchip == "kernel" else {"INTR"}
    if options.icount is not None:
        required.add("GUEST_TIME")
    if options.hand_over is not None:
        required.add("SAVE")
    optional = {"REQUESTS", "VECTORS"}
    if options.transport == "slots":
        required.add("SHARED_MEMORY")
    if options.transport != "socket" and OFFERED:
        # What a posted write leads to would happen at another instruction in each run.
        optional |= {"SHARED_MEMORY"} if options.icount is not None else {"SHARED_MEMORY", "PUBLISHED"}
    if "PUBLISHED" in optional and options.accel == "kvm":
        optional.add("GRANTS")
    return Client(
        options.vm,
        vcpus=1,
        required=sum(CAPABILITY[name] for name in required),
        optional=sum(CAPABILITY[name] for name in optional - required),
        vendor="mmiod-vmm",
        bitness=engine.bitness,
        physical_bits=engine.physical_bits,
    )


@frozen
class _Engine:
    """What HELLO tells of an accelerator, how a vCPU gets its own, what wakes that."""

    bitness: int
    physical_bits: int
    build: Callable[[Vcpu], Accelerator]
    alarm: Alarm | None = None


def _unicorn(options: argparse.Namespace) -> _Engine:
    from mmiod.vmm.unicorn import MAXPHYADDR, UnicornCpu

    def build(vcpu: Vcpu) -> Accelerator:
        now = None if options.icount is None else vcpu.guest_ns
        return UnicornCpu(vcpu.memory, vcpu.perform, now)

    return _Engine(64, MAXPHYADDR, build)


def _kvm(options: argparse.Namespace) -> _Engine:
    from mmiod.vmm.kvm import Kvm, KvmCpu, SignalAlarm

    irqchip = options.irqchip == "kernel"
    kvm, alarm = Kvm.open(irqchip=irqchip, vectors=options.vectors), SignalAlarm()
    ring = alarm.ring if irqchip else None

    def build(vcpu: Vcpu) -> Accelerator:
        cpu = KvmCpu(kvm, vcpu.memory, vcpu.perform, ring)
        vcpu.link.controller, vcpu.link.fixtures = cpu.irqchip, Fixtures(cpu.fixtures)
        return cpu

    return _Engine(64, kvm.processor.physical_bits, build, alarm)


_ENGINES: Final = {"unicorn": _unicorn, "kvm": _kvm}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmiod-vmm", description="Run a guest whose devices are behind an mmiod socket."
    )
    parser.add_argument("--socket", type=Path, required=True, help="the VM's exit socket")
    parser.add_argument("--vm", type=_name, required=True, help="the VM's name in mmiod's configuration")
    _add_memory(parser)
    _add_processor(parser)
    _add_exits(parser)
    return parser


def _add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--firmware", type=Path, required=True, help="image to place below 4 GiB")
    parser.add_argument("--memory", type=int, default=128, metavar="MIB", help="RAM in MiB (default: 128)")
    parser.add_argument(
        "--memory-fd",
        type=_descriptor,
        metavar="N",
        help="an inherited memfd for RAM (default: one of its own)",
    )


def _add_processor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--accel", choices=_ENGINES, default="unicorn", help="what executes the guest (default: unicorn)"
    )
    parser.add_argument(
        "--irqchip",
        choices=("mmiod", "kernel"),
        default="mmiod",
        help="where the interrupt controllers are; kernel: machines/pc-irqchip.toml (default: mmiod)",
    )
    parser.add_argument(
        "--vectors",
        action="store_true",
        help="give the guest AVX and AVX-512, as far as KVM has them (default: SSE2)",
    )
    parser.add_argument(
        "--icount",
        type=_shift,
        metavar="shift=N",
        help=f"guest time is 2^N ns for each instruction, 0..{MAX_SHIFT} (default: real time)",
    )


def _add_exits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--patience",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long to look for a daemon that is not there (default: 10)",
    )
    parser.add_argument(
        "--transport",
        choices=("socket", "slots", "auto"),
        default="auto",
        help="how exits travel; auto: in shared memory where the daemon has it (default: auto)",
    )
    parser.add_argument(
        "--stats", action="store_true", help="at the end tell on stderr how many accesses needed what"
    )
    parser.add_argument(
        "--hand-over",
        type=_hand_over,
        metavar="EXITS:SOCKET[:VM]",
        help="after EXITS exits save the devices, restore them at another daemon's socket and go on there",
    )


def _descriptor(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_DESCRIPTOR:
        raise argparse.ArgumentTypeError(f"{text!r} is no descriptor")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not 0 <= value <= MAX_PATIENCE_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to {MAX_PATIENCE_S}")
    return value


def _hand_over(text: str) -> HandOver:
    exits, _, there = text.partition(":")
    path, _, vm = there.partition(":")
    if not exits.isdecimal() or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not EXITS:SOCKET or EXITS:SOCKET:VM")
    return HandOver(int(exits), connect_to(path), _name(vm) if vm else None)


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
