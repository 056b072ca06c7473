"""x86 instructions as plans: bytes and vCPU state in, linear accesses out, a delta at the end.

`decode(code, mode_of(vcpu))` gives a `Plan` (or says why not); `plan.run(vcpu)` is a
generator of steps that never touches the vCPU.  `walk` translates where the hypervisor
did not.  "SDM" is Intel's Software Developer's Manual, "APM" AMD's Programmer's Manual.
"""

from mmiod.x86.breakpoints import Breakpoint, watched
from mmiod.x86.cursor import NeedMore, NotSupported, Undefined
from mmiod.x86.direct import SLOW, Direct
from mmiod.x86.faults import GuestFault, Suspend
from mmiod.x86.mode import Mode, mode_of
from mmiod.x86.paging import walk
from mmiod.x86.plan import REP_BOUND, Plan, decode
from mmiod.x86.segments import code_address
from mmiod.x86.steps import (
    Cas,
    Enqueue,
    In,
    Linear,
    Out,
    Pattern,
    Port,
    Probe,
    ProbePort,
    ProbeSystem,
    Read,
    ReadMsr,
    ReadSystem,
    Run,
    Step,
    Transfer,
    Write,
    WriteMsr,
    WriteSystem,
)

__all__ = [
    "REP_BOUND",
    "SLOW",
    "Breakpoint",
    "Cas",
    "Direct",
    "Enqueue",
    "GuestFault",
    "In",
    "Linear",
    "Mode",
    "NeedMore",
    "NotSupported",
    "Out",
    "Pattern",
    "Plan",
    "Port",
    "Probe",
    "ProbePort",
    "ProbeSystem",
    "Read",
    "ReadMsr",
    "ReadSystem",
    "Run",
    "Step",
    "Suspend",
    "Transfer",
    "Undefined",
    "Write",
    "WriteMsr",
    "WriteSystem",
    "code_address",
    "decode",
    "mode_of",
    "walk",
    "watched",
]
