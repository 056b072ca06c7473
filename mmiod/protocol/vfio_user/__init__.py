"""vfio-user 0.1, the server's side, for QEMU (10.1 or newer), rust-vmm and alioth."""

from mmiod.protocol.vfio_user.requests import (
    MapMemory as MapMemory,
    OneWrite as OneWrite,
    Read as Read,
    Request as Request,
    Reset as Reset,
    SetIrqs as SetIrqs,
    Shape as Shape,
    UnmapMemory as UnmapMemory,
    Write as Write,
)
from mmiod.protocol.vfio_user.session import (
    Complaint as Complaint,
    Event as Event,
    Session as Session,
    read_reply as read_reply,
)
from mmiod.protocol.vfio_user.table import (
    ACTION_MASK as ACTION_MASK,
    ACTION_TRIGGER as ACTION_TRIGGER,
    ACTION_UNMASK as ACTION_UNMASK,
    BARS as BARS,
    CONFIG_REGION as CONFIG_REGION,
    INTX as INTX,
    MAX_DESCRIPTORS as MAX_DESCRIPTORS,
    MSI as MSI,
    MSIX as MSIX,
    REGIONS as REGIONS,
)
from mmiod.protocol.vfio_user.version import MAX_MAPS as MAX_MAPS
