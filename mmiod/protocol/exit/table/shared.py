"""What is in shared memory: slots, posted writes, published registers."""

from __future__ import annotations

from typing import Final

TEXT: Final = """
struct shared_header        # at 0 of the shared memory; the slot of vCPU n is at 4096 * (1 + n)
    u32 daemon_sleeps       # not 0: the daemon waits for the kick
    u32 reserved
    u64 published_offset    # published registers, with capability PUBLISHED; else 0
    u64 published_length
    u8 reserved2[40]
    u8 doorbells[256]       # of vCPU n: one more, modulo 256, whenever its slot has something new

struct shared_posted        # entry sequence % 64 of a vCPU's ring: what POSTED has
    u64 address
    u64 value
    u8 space
    u8 reserved
    u16 size
    u32 reserved2
    u64 guest_ns

struct shared_slot          # one per vCPU
    u32 state
    u32 client_sleeps       # not 0: the client waits for its ear
    u64 posted              # sequence of the last posted write in the ring
    u8 reserved[48]
    u64 applied             # the daemon's: sequence of the last posted write that it took out
    u8 reserved2[56]
    u8 exit[896]            # an EXIT_* message
    u8 completion[1024]     # its completion; registers that `changed` does not name are anything
    shared_posted ring[64]

struct published_header     # begins the published registers; their rows follow
    u64 generation          # of the table: odd while there is none
    u64 rows
    u64 origin_ns           # what CLOCK_MONOTONIC was at 0 of the guest's clock
    u8 reserved[40]

struct published_row
    u64 address
    u8 space
    u8 size
    u8 least                # bytes of the smallest part that can be read alone
    u8 kind                 # a published_kind
    u32 device              # number of the row that is its device's
    u64 policy              # bits of published_policy; above bit 7 a version, of which no two are alike
    u64 value
    u64 affected            # bit n: it waits for posted writes to row device + 1 + n
    u64 since               # of a counter: guest time of `value`, in ns; of spans and windows: their length
    u64 rate                # of a counter: Hz; of a window: the other space; of ECHO: bits of the value
    u64 bits                # of a counter: its width
"""
