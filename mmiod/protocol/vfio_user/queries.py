"""Questions about a function that its shape answers: regions, interrupts, eventfds of regions.

Specification: QEMU docs/interop/vfio-user.rst, the command's own section.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from mmiod.protocol.vfio_user import table
from mmiod.protocol.vfio_user.requests import Shape, check
from mmiod.protocol.vfio_user.table import LAYOUTS, Command

Members = dict[str, int]

REGION_INFO: Final = LAYOUTS["region_info"]
SPARSE_MMAP: Final = LAYOUTS["sparse_mmap"]
REGION_AREA: Final = LAYOUTS["region_area"]


def answer(command: Command, asked: Members, shape: Shape) -> bytes:
    """The reply's payload.

    Raises:
        ProtocolError: there is no such region or interrupt; the connection goes on.
    """
    layout = command.request
    return layout.pack(**{"argsz": layout.size, **_ANSWERS[command.name](asked, shape)})


def shared_region(asked: Members, shape: Shape) -> bytes | None:
    """What answers GET_REGION_INFO with a descriptor; None for who has no room, or nothing to map.

    A client without room learns how much it needs, and asks again.  One that never does must
    not take the whole region for memory, so the first answer does not say that any of it is.
    """
    areas = shape.areas.get(asked["index"], ())
    if not areas or asked["argsz"] < _region_size(areas):
        return None
    info = _region_info(asked, shape)
    flags = info.pop("flags") | table.REGION_MMAP | table.REGION_CAPABILITIES
    head = REGION_INFO.pack(**info, flags=flags, cap_offset=REGION_INFO.size)
    sparse = SPARSE_MMAP.pack(id=table.SPARSE_MMAP, version=1, areas=len(areas))
    return head + sparse + b"".join(REGION_AREA.pack(offset=offset, size=size) for offset, size in areas)


def _device_info(_asked: Members, _shape: Shape) -> Members:
    flags = table.DEVICE_RESET | table.DEVICE_PCI
    return {"flags": flags, "regions": table.REGIONS, "irqs": table.IRQS}


def _region_info(asked: Members, shape: Shape) -> Members:
    size = shape.regions[_index(asked, "region_info", table.REGIONS)]
    flags = table.REGION_READ | table.REGION_WRITE if size else 0
    needed = _region_size(shape.areas.get(asked["index"], ()))
    return {"argsz": needed, "flags": flags, "index": asked["index"], "size": size}


def _region_size(areas: tuple[tuple[int, int], ...]) -> int:
    """Bytes of all that there is to tell of a region."""
    return REGION_INFO.size + (SPARSE_MMAP.size + REGION_AREA.size * len(areas) if areas else 0)


def _irq_info(asked: Members, shape: Shape) -> Members:
    index = _index(asked, "irq_info", table.IRQS)
    return {"flags": table.IRQ_FLAGS[index], "index": index, "count": shape.irqs[index]}


def _io_fds(asked: Members, _shape: Shape) -> Members:
    """There are none: every access is a message."""
    return {"index": _index(asked, "region_io_fds", table.REGIONS)}


def _index(asked: Members, name: str, count: int) -> int:
    check(asked["index"] < count, f"{name}.index", asked["index"], f"there are {count}")
    return asked["index"]


_ANSWERS: Final[Mapping[str, Callable[[Members, Shape], Members]]] = {
    "GET_INFO": _device_info,
    "GET_REGION_INFO": _region_info,
    "GET_IRQ_INFO": _irq_info,
    "GET_IO_FDS": _io_fds,
}
