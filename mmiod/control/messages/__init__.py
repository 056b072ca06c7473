"""What `io.mmiod` tells and asks: the types of its interface description.

Addresses and values are unsigned ints.  Times are ns.
"""

from mmiod.control.messages.breaks import (
    BreakRequest as BreakRequest,
    Broken as Broken,
    Continued as Continued,
    ContinueRequest as ContinueRequest,
    Over as Over,
    Stop as Stop,
)
from mmiod.control.messages.change import (
    PluginRequest as PluginRequest,
    Reloaded as Reloaded,
    Upgraded as Upgraded,
)
from mmiod.control.messages.errors import (
    AmbiguousDevice as AmbiguousDevice,
    InvalidFilter as InvalidFilter,
    NotStopped as NotStopped,
    ReloadRejected as ReloadRejected,
    TooManyClients as TooManyClients,
    UnknownDevice as UnknownDevice,
    UnknownPlugin as UnknownPlugin,
    UnknownRegister as UnknownRegister,
    UnknownVm as UnknownVm,
    UpgradeRejected as UpgradeRejected,
)
from mmiod.control.messages.inventory import (
    Backend as Backend,
    Device as Device,
    Devices as Devices,
    Function as Function,
    Functions as Functions,
    Map as Map,
    Range as Range,
    Region as Region,
    Register as Register,
    Registers as Registers,
    RegistersRequest as RegistersRequest,
)
from mmiod.control.messages.subject import (
    Nothing as Nothing,
    OfVm as OfVm,
)
from mmiod.control.messages.traffic import (
    Access as Access,
    DeviceStatistics as DeviceStatistics,
    Exit as Exit,
    Exits as Exits,
    Statistics as Statistics,
    Totals as Totals,
    Unsupported as Unsupported,
    Watched as Watched,
    WatchRequest as WatchRequest,
)
