"""What a machine consists of: the contents of a machine file, structured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from attrs import field, frozen

from mmiod.machine.address_map import Policy
from mmiod.values import Space

DEVICE_NAME: Final = re.compile(r"(?!vcpu\d+$|hypervisor$)[A-Za-z0-9][A-Za-z0-9_-]{0,30}")

ISOLATIONS: Final = ("inline", "process")
DMA: Final = ("shared", "messages")


@frozen
class Placement:
    """Where a region begins."""

    space: Space
    base: int


@frozen
class ImageDescription:
    """A disk image as a backend, which has options: a table where others are a text."""

    kind: str = field()
    path: str
    read_only: bool = False

    @kind.validator
    def _check_kind(self, _: object, kind: str) -> None:
        if kind != "block":
            raise ValueError(f"{kind!r}: a table is a backend of kind 'block'; others are a text")

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}{' (read only)' if self.read_only else ''}"


BackendDescription = str | ImageDescription
Sinks = str | tuple[str, ...]
"""What one line drives."""


@frozen
class DeviceDescription:
    """One device: its plugin, where its regions are, its own configuration.

    `at` maps region names to places, `slot` ("00:03.0") is a PCI function's, `config` is
    structured into the plugin's configuration class, `streams` name backends.
    """

    plugin: str
    at: Mapping[str, Placement] = field(factory=dict)
    slot: int | None = None
    """Bus, device and function as an offset into PCI configuration space."""
    config: Mapping[str, object] = field(factory=dict)
    streams: Mapping[str, BackendDescription] = field(factory=dict)
    isolation: str = field(default="inline")
    """Where hooks run: "inline" in the daemon, or in a "process" of their own."""

    mmap: bool = False
    """By vfio-user: let the hypervisor map the device's storage."""

    dma: str = field(default="shared")
    """How a `Work` reaches guest memory behind vfio-user: what is "shared" directly, else by
    messages to clients that are known to take them; or all by "messages", to any client."""

    @dma.validator
    def _check_dma(self, _: object, dma: str) -> None:
        if dma not in DMA:
            raise ValueError(f"{dma!r}: there are {', '.join(DMA)}")

    @isolation.validator
    def _check_isolation(self, _: object, isolation: str) -> None:
        if isolation not in ISOLATIONS:
            raise ValueError(f"{isolation!r}: there are {', '.join(ISOLATIONS)}")


@frozen
class UnclaimedDescription:
    """What accesses get where no device is."""

    space: Space
    base: int
    length: int
    policy: Policy


@frozen
class MachineDescription:
    """All devices of a VM, how their lines are wired, and the rest of its address spaces."""

    devices: Mapping[str, DeviceDescription] = field()
    wires: Mapping[str, Sinks] = field(factory=dict)
    unclaimed: tuple[UnclaimedDescription, ...] = ()

    @devices.validator
    def _check_names(self, _: object, devices: Mapping[str, DeviceDescription]) -> None:
        wrong = [name for name in devices if not DEVICE_NAME.fullmatch(name)]
        if wrong:
            raise ValueError(
                f"{', '.join(map(repr, wrong))}: a device's name is 1 to 31 letters, digits, _ -, and not "
                "that of a hypervisor's part in wires"
            )
