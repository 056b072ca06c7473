"""Messages 1 to 8: a session begins, guest memory, what answers requests."""

from __future__ import annotations

from typing import Final

TEXT: Final = """
message HELLO 1 to-daemon   # first on every connection
    u16 version_min
    u16 version_max
    u32 vcpus               # 1..welcome.max_vcpus
    u64 required            # capabilities without which the client cannot work
    u64 optional            # capabilities it can use; unknown ones are ignored
    u8 token[16]            # zero for a new session; WELCOME's to go on with one
    u64 shared_mask         # address bits that mean "shared" or "encrypted", not address
    u64 deadline_ns         # how long the client waits for a completion, 0 if for ever
    u32 source              # whose structures EXIT_SOURCE brings, 0 if it is not used
    u8 bitness              # 32 or 64
    u8 physical_bits        # MAXPHYADDR
    u16 reserved
    char vm[32]             # NUL-padded; must be the VM of this socket
    char vendor[16]         # hypervisor's name, for people

message WELCOME 2 to-client
    u16 version
    u16 reserved
    u32 max_message
    u64 capabilities        # all required ones and the optional ones that are granted
    u8 token[16]
    u64 generation          # counts the daemon's take-overs
    u64 hook_deadline_ns
    u32 max_vcpus
    u32 max_slots
    u32 rep_bound           # iterations of a REP per exit
    u32 reserved2

message RESUMED 3 to-client # a new daemon took over: resend what is unanswered
    u64 generation

message MAP 4 to-daemon     # guest memory; 1 descriptor unless NO_DESCRIPTOR
    u32 serial
    u32 slot
    u64 gpa
    u64 length
    u64 offset              # into the descriptor

message UNMAP 5 to-daemon   # acknowledged when no DMA uses the slot any more
    u32 serial
    u32 slot

message REMAP 6 to-daemon   # the slot moves to another address
    u32 serial
    u32 slot
    u64 gpa

message ACK 7 to-client     # answers the request with this serial
    u32 serial
    u32 reserved
    u64 value

message ERROR 8 to-client
    u32 code
    u32 fatal               # 1: the daemon closes this connection now
    u64 subject             # sequence or serial of the offending message, else 0
    u64 value               # the offending value
    char name[40]           # the field: "hello.version_min"
    char reason[120]
"""
