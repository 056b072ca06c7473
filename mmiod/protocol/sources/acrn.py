"""ACRN: a slot of the I/O request page, 256 bytes; the hypervisor has decoded the access.

The answer has the value read.  `processed`, which hands the slot over, stays the
device manager's, as does its notification.

Specification: Linux, Documentation/virt/acrn/io-request.rst; include/uapi/linux/acrn.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmiod.protocol.exit import Answer, Reply, SourceExit
from mmiod.protocol.exit.codec import check
from mmiod.protocol.sources.layout import Layout, View, layout
from mmiod.protocol.sources.registers import direction_of
from mmiod.protocol.sources.source import Memory, Settle, access
from mmiod.values import READ, Completion, DecodedExit, Exit, Forward, Space, Values

SLOT: Final = layout("acrn_io_request", "0 u32 type", length=256)
PIO: Final = layout("acrn_pio_request", "64 u32 direction\n72 u64 address\n80 u64 size\n88 u32 value")
MMIO: Final = layout("acrn_mmio_request", "64 u32 direction\n72 u64 address\n80 u64 size\n88 u64 value")
PCI: Final = layout(
    "acrn_pci_request",
    """
    64  u32 direction
    80  u64 size
    88  u32 value
    92  u32 bus
    96  u32 dev
    100 u32 func
    104 u32 reg
    """,
)
PORTS: Final = 1 << 16


def read(arrived: SourceExit, _memory: Memory) -> Exit:
    """The access in the slot."""
    slot = SLOT.view(arrived.body)
    found = _TYPES.get(slot["type"])
    if found is None:
        raise Settle(Forward())
    space, form, address_of = found
    request = form.within(slot, 0)
    direction, size = request["direction"], request["size"]
    room = form.fields["value"][1]
    check(direction <= 1, f"{form.name}.direction", direction, "0 reads, 1 writes")
    check(1 <= size <= room, f"{form.name}.size", size, f"1..{room}")
    data = request.octets("value")[:size]
    return access(arrived, space, direction_of(direction), address_of(request), size, data)


def answer(arrived: SourceExit, exit_: Exit, completion: Completion) -> Answer:
    """The slot with the value."""
    if not (isinstance(completion, Values) and isinstance(exit_, DecodedExit)):
        return completion
    slot = SLOT.view(arrived.body)
    if exit_.direction == READ:
        _, form, _ = _TYPES[slot["type"]]
        form.within(slot, 0)["value"] = int.from_bytes(completion.data, "little")
    return Reply(bytes(slot.data))


def _port(request: View) -> int:
    address = request["address"]
    check(address < PORTS, "acrn_pio_request.address", address, "a port has 16 bits")
    return address


def _config(request: View) -> int:
    for name, bits in (("bus", 8), ("dev", 5), ("func", 3), ("reg", 12)):
        check(request[name] < 1 << bits, f"acrn_pci_request.{name}", request[name], f"it has {bits} bits")
    return request["bus"] << 20 | request["dev"] << 15 | request["func"] << 12 | request["reg"]


_TYPES: Final[dict[int, tuple[Space, Layout, Callable[[View], int]]]] = {
    0: (Space.PIO, PIO, _port),
    1: (Space.MMIO, MMIO, lambda request: request["address"]),
    2: (Space.PCI_CONFIG, PCI, _config),
}
"""ACRN_IOREQ_TYPE_PORTIO, _MMIO, _PCICFG."""
