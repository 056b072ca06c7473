"""Messages 64 to 79: interrupts, resets, state, claims, shared memory, grants."""

from __future__ import annotations

from typing import Final

TEXT: Final = """
message SET_LEVEL 64 to-client     # a line of an interrupt controller in the hypervisor
    u32 line
    u32 level

message EOI 65 to-daemon           # the guest ended a level interrupt; answered if the line is high
    u32 line
    u32 reserved

message MSI 66 to-client
    u64 address
    u32 data
    u32 reserved

message INTR 67 to-client          # level of the interrupt request towards a vCPU
    u32 vcpu
    u32 level

message RESET 68 to-daemon         # drops what is in flight; acknowledged
    u32 serial
    u32 vcpu                # all ones: the machine and its devices

message PAUSE 69 to-daemon         # acknowledged when only halts are outstanding and the clock stands
    u32 serial
    u32 reserved

message RESUME 70 to-daemon
    u32 serial
    u32 reserved

message SAVE 71 to-daemon          # acknowledged with 1 descriptor, value is its length
    u32 serial
    u32 reserved

message RESTORE 72 to-daemon       # 1 descriptor
    u32 serial
    u32 reserved
    u64 length

message REQUEST 73 to-client       # what a device asks of the hypervisor
    u32 kind
    u32 vcpu                # all ones: the machine
    u64 value               # exit code

message QUERY_CLAIMS 74 to-daemon
    u32 serial
    u32 reserved

message CLAIMS 75 to-client tail   # `count` claims; sent when asked and when the map changes
    u32 serial              # 0 when it was not asked for
    u32 count               # in this message
    u32 remaining           # in the messages that follow
    u32 reserved

message SHARE 76 to-daemon         # with a sealed memfd, an eventfd (the kick), an epoll (ear) for each vCPU
    u32 serial
    u32 slots               # as many as the session has vCPUs
    u64 length              # of the memfd: 4096 * (1 + slots) bytes or more

message GRANT 77 to-client         # it may stand until REVOKE; a DOORBELL brings 1 descriptor, an eventfd
    u32 number              # of the grant; not used again on this connection
    u8 kind                 # a grant_kind
    u8 space
    u16 size                # of a doorbell: of the write
    u64 address
    u64 value               # of a doorbell: what is written; of a page: where it is in the shared memory

message REVOKE 78 to-client        # answered by REVOKED when it does not stand any more
    u32 number
    u32 reserved

message REVOKED 79 to-daemon
    u32 number
    u32 reserved
"""
