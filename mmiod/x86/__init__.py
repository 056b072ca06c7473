"""x86 instructions as plans: bytes and vCPU state in, linear accesses out, a delta at the end.

`decode(code, mode_of(vcpu))` gives a `Plan` (or says why not); `plan.run(vcpu)` is a
generator of steps that never touches the vCPU.  `walk` translates where the hypervisor
did not.  "SDM" is Intel's Software Developer's Manual, "APM" AMD's Programmer's Manual.
"""

from mmiod.x86.cursor import NeedMore, NotSupported, Undefined
from mmiod.x86.direct import SLOW, Direct
from mmiod.x86.faults import GuestFault, Suspend
from mmiod.x86.mode import Mode, mode_of
from mmiod.x86.paging import walk
from mmiod.x86.plan import REP_BOUND, Plan, decode
from mmiod.x86.segments import code_address
from mmiod.x86.steps import Cas, In, Out, Probe, Read, ReadSystem, Run, Step, Write

__all__ = [
    "REP_BOUND",
    "SLOW",
    "Cas",
    "Direct",
    "GuestFault",
    "In",
    "Mode",
    "NeedMore",
    "NotSupported",
    "Out",
    "Plan",
    "Probe",
    "Read",
    "ReadSystem",
    "Run",
    "Step",
    "Suspend",
    "Undefined",
    "Write",
    "code_address",
    "decode",
    "mode_of",
    "walk",
]
