"""Messages 16 to 22, exits, and 32 to 43, their completions."""

from __future__ import annotations

from typing import Final

TEXT: Final = """
message EXIT_DECODED 16 to-daemon tail  # the elements of a write of more than 8 bytes
    exit exit
    u64 address
    u64 value               # the elements of a write of up to 8 bytes, little-endian; else 0
    u8 space
    u8 direction
    u16 size                # of one element: 1 2 4 8 16 32 64
    u32 count               # elements, at least 1
    i32 stride              # 0 all at one address, 1 ascending, -1 descending
    u32 reserved

message EXIT_RAW 17 to-daemon tail  # supplements
    exit exit
    u64 gpa                 # with flag GPA, else 0
    u64 gva                 # with flag GVA, else 0
    u8 intent               # with flag INTENT, else 0
    u8 code_length          # 0..15
    u8 cpl
    u8 reserved
    u32 reserved2
    u8 code[16]             # code_length are valid
    vcpu vcpu

message EXIT_HALT 18 to-daemon     # completed by VALUES when an interrupt is pending
    exit exit

message EXIT_TICK 19 to-daemon     # virtual time has reached the deadline; completed at once
    exit exit

message EXIT_INTA 20 to-daemon     # completed by VALUES, the value is the vector
    exit exit

message POSTED 21 to-daemon        # a write nobody waits for
    exit exit               # sequence counts posted writes
    u64 address
    u64 value
    u8 space
    u8 reserved
    u16 size
    u32 reserved2

message EXIT_SOURCE 22 to-daemon tail  # the source's structure, zeros up to a multiple of 8, supplements
    exit exit
    u32 length              # bytes of the structure
    u32 reserved

message VALUES 32 to-client tail   # the elements of a read of more than 8 bytes
    completion completion
    u64 value               # the elements of a read of up to 8 bytes, little-endian; else 0
    u32 length              # bytes of all elements: count * size of a read, 0 for a write
    u32 reserved

message DONE 33 to-client tail     # supplements: memory to write, vector registers
    completion completion
    u64 gpr[16]
    u64 rip
    u64 rflags
    u32 changed             # bit n: gpr[n] is new
    u32 debug               # not 0: raise #DB then, and DR6 gets these bits (BS, B0-B3)

message FAULT 34 to-client tail    # supplements, with flag DELTA
    completion completion
    u64 gpr[16]             # with flag DELTA as in DONE: what a REP did before the fault
    u64 rip                 # with flag DELTA, else 0: leave rip and rflags as they are
    u64 rflags
    u32 changed
    u32 vector
    u32 error_code          # with flag ERROR_CODE, else 0
    u32 reserved
    u64 cr2                 # with flag CR2, else 0

message RETRY 35 to-client
    completion completion

message NEED_BYTES 36 to-client
    completion completion
    u64 address             # linear
    u32 count
    u32 reserved

message NEED_MEMORY 37 to-client
    completion completion
    u64 gpa
    u32 length
    u32 reserved

message NEED_TRANSLATION 38 to-client
    completion completion
    u64 gva
    u32 intent
    u32 cpl

message NEED_REGISTERS 39 to-client
    completion completion
    u32 registers
    u32 reserved

message UNSUPPORTED 40 to-client
    completion completion
    u8 code[16]
    u32 code_length
    u32 reserved

message REFUSED 41 to-client
    completion completion
    u32 reason
    u32 reserved

message FORWARD 42 to-client
    completion completion

message REPLY 43 to-client tail    # the source's structure, zeros up to a multiple of 8, supplements
    completion completion
    u32 length              # bytes of the structure
    u32 reserved
"""
