"""vfio-user 0.1, the server's side, for QEMU (10.1 or newer), rust-vmm and alioth."""

from mmiod.protocol.vfio_user.asking import Answer as Answer, Asked as Asked
from mmiod.protocol.vfio_user.features import (
    GetState as GetState,
    ReadState as ReadState,
    ReportLog as ReportLog,
    SetState as SetState,
    StartLog as StartLog,
    StopLog as StopLog,
    WriteState as WriteState,
)
from mmiod.protocol.vfio_user.frames import Message as Message
from mmiod.protocol.vfio_user.migration import (
    GIVES as GIVES,
    RUNS as RUNS,
    Incoming as Incoming,
    Outgoing as Outgoing,
    State as State,
    path as path,
)
from mmiod.protocol.vfio_user.requests import (
    MapMemory as MapMemory,
    OneWrite as OneWrite,
    Read as Read,
    Request as Request,
    Reset as Reset,
    SetIrqs as SetIrqs,
    Shape as Shape,
    ShareRegion as ShareRegion,
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
    LOGGING_REPORT as LOGGING_REPORT,
    LOGGING_START as LOGGING_START,
    MAX_DESCRIPTORS as MAX_DESCRIPTORS,
    MSI as MSI,
    MSIX as MSIX,
    REGIONS as REGIONS,
)
from mmiod.protocol.vfio_user.version import MAX_MAPS as MAX_MAPS
