"""The SDK: the only package, with `mmiod.values`, that a device model imports."""

from mmiod.device.declarations import (
    Alarm as Alarm,
)
from mmiod.device.declarations import (
    Channel as Channel,
)
from mmiod.device.declarations import (
    IrqInput as IrqInput,
)
from mmiod.device.declarations import (
    IrqInputs as IrqInputs,
)
from mmiod.device.declarations import (
    IrqOutput as IrqOutput,
)
from mmiod.device.declarations import (
    IrqOutputs as IrqOutputs,
)
from mmiod.device.declarations import (
    Line as Line,
)
from mmiod.device.declarations import (
    Region as Region,
)
from mmiod.device.declarations import (
    Stream as Stream,
)
from mmiod.device.declarations import (
    Timer as Timer,
)
from mmiod.device.device import API as API
from mmiod.device.device import Device as Device
from mmiod.device.faces import (
    PENDING as PENDING,
)
from mmiod.device.faces import (
    Bus as Bus,
)
from mmiod.device.faces import (
    Clock as Clock,
)
from mmiod.device.faces import (
    Context as Context,
)
from mmiod.device.faces import (
    Memory as Memory,
)
from mmiod.device.faces import (
    Pending as Pending,
)
from mmiod.device.faces import (
    Request as Request,
)
from mmiod.device.registers import Field as Field
from mmiod.device.registers import Register as Register
