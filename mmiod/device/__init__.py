"""The SDK: the only package, with `mmiod.values`, that a device model imports."""

from mmiod.device.accesses import (
    MemoryGather as MemoryGather,
    MemoryRead as MemoryRead,
    MemoryScatter as MemoryScatter,
    MemoryWrite as MemoryWrite,
)
from mmiod.device.buffers import Buffer as Buffer
from mmiod.device.declarations import (
    Alarm as Alarm,
    Channel as Channel,
    Client as Client,
    Effect as Effect,
    IrqInput as IrqInput,
    IrqInputs as IrqInputs,
    IrqOutput as IrqOutput,
    IrqOutputs as IrqOutputs,
    Line as Line,
    Region as Region,
    Requests as Requests,
    Stream as Stream,
    Timer as Timer,
)
from mmiod.device.device import API as API, Device as Device
from mmiod.device.doorbells import Doorbell as Doorbell
from mmiod.device.faces import (
    PENDING as PENDING,
    Bus as Bus,
    Clock as Clock,
    Context as Context,
    Memory as Memory,
    Pending as Pending,
    Request as Request,
    StorageFace as StorageFace,
)
from mmiod.device.fields import Field as Field
from mmiod.device.fifo import Fifo as Fifo, Queue as Queue
from mmiod.device.flags import plain as plain
from mmiod.device.policy import Copies as Copies, Count as Count, Stored as Stored, Window as Window
from mmiod.device.registers import Register as Register, RegisterArray as RegisterArray
from mmiod.device.saved import Saved as Saved
from mmiod.device.storage import Storage as Storage
from mmiod.device.work import Job as Job, Moves as Moves, Work as Work
