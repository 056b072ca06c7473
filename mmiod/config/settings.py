"""What mmiod.toml says, with its defaults."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

from attrs import field, frozen

from mmiod.config.machines import MachineFile

T = TypeVar("T")

VM_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}")
MAX_REP_BOUND: Final = 1024
"""So that what the iterations write to unmapped memory fits the completion."""


def _between(low: int, high: int) -> Callable[[object, object, int], None]:
    def validate(_instance: object, _attribute: object, value: int, /) -> None:
        if not low <= value <= high:
            raise ValueError(f"{value} is not within {low}..{high}")

    return validate


def _one_of(*choices: str) -> Callable[[object, object, str], None]:
    def validate(_instance: object, _attribute: object, value: str, /) -> None:
        if value not in choices:
            raise ValueError(f"{value!r}: there are {', '.join(choices)}")

    return validate


@frozen
class DaemonConfig:
    """What holds for the whole daemon."""

    control: Path = Path("/run/mmiod/control")
    """The control socket."""
    plugins: tuple[Path, ...] = ()
    """Directories of device plugins, searched before the bundled ones."""
    hook_deadline_ms: int = field(default=100, validator=_between(1, 60_000))
    """A device's hook that takes more CPU time is interrupted and its device quarantined."""
    access_deadline_ms: int = field(default=1000, validator=_between(1, 4000))
    """An access by vfio-user that a device answers later reads all ones: QEMU waits for 5 s."""
    reconnect_grace_s: int = field(default=30, validator=_between(0, 86_400))
    """How long a VM's devices wait for a hypervisor that lost its connection."""
    recorder_capacity: int = field(default=65536, validator=_between(1, 1 << 24))
    """Accesses that the traffic recorder keeps."""
    rep_bound: int = field(default=1024, validator=_between(1, MAX_REP_BOUND))
    """Iterations of a REP instruction in one exit."""
    spin_us: int = field(default=200, validator=_between(0, 1000))
    """How long the daemon looks for exits before it sleeps; 0 where CPUs are shared."""
    max_vcpus: int = field(default=64, validator=_between(1, 1024))
    max_slots: int = field(default=64, validator=_between(1, 4096))
    """Of guest memory, per VM."""
    log_level: str = field(default="info", validator=_one_of("debug", "info", "warning", "error"))
    """Of the events that are told."""


def _machine_file(given: Path | MachineFile) -> MachineFile:
    return given if isinstance(given, MachineFile) else MachineFile(given, given.parent)


@frozen
class VmConfig:
    """One VM: its name, its machine file and where its hypervisor connects.

    `socket` is a socket of the exit protocol; with protocol "vfio-user" it is a directory
    that holds one for each PCI function, named like the device.
    """

    name: str = field()
    machine: MachineFile = field(converter=_machine_file)
    socket: Path
    protocol: str = field(default="exit", validator=_one_of("exit", "vfio-user"))

    @name.validator
    def _check_name(self, _: object, value: str) -> None:
        if not VM_NAME.fullmatch(value):
            raise ValueError(f"{value!r}: a VM's name is 1 to 31 letters, digits, _ . -")


@frozen
class Config:
    """The contents of mmiod.toml."""

    vm: tuple[VmConfig, ...] = field()
    daemon: DaemonConfig = DaemonConfig()

    @vm.validator
    def _check_vms(self, _: object, vms: tuple[VmConfig, ...]) -> None:
        if not vms:
            raise ValueError("no VM")
        names = _twice(vm.name for vm in vms)
        sockets = _twice([self.daemon.control, *(vm.socket for vm in vms)])
        problems = [f"two VMs are called {name}" for name in names]
        problems += [f"{socket} is the socket of two" for socket in sockets]
        if problems:
            raise ValueError("; ".join(problems))


def _twice(things: Iterable[T]) -> list[T]:
    return [thing for thing, count in Counter(things).items() if count > 1]
