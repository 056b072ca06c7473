"""A record: one access that reached mmiod, as a plain tuple.

It is built for every access, so it is a tuple given by position and nothing else: no
class, no enum construction, no names.  The constants below are its columns.  Whoever
builds a record decides what is in it: a value that must not be kept is left out there,
before the recorder sees it.
"""

from __future__ import annotations

from typing import Final

from mmiod.machine.machine import Record

__all__ = ["COLUMNS", "STATUSES", "Record"]

COLUMNS: Final = (
    "time_ns",  # guest time since power-on
    "vm",
    "vcpu",  # -1: no vCPU, a bridge or a DMA engine
    "sequence",  # of the exit, per vCPU
    "space",  # mmiod.values.Space
    "direction",  # mmiod.values.Direction
    "address",  # in its space
    "size",  # bytes
    "value",  # read or written; of a batch its first 64 bytes
    "device",  # "" where nobody claims the address
    "generation",  # of the device's plugin
    "register",  # the one that holds the address; "" if none is declared there
    "status",  # one of STATUSES
    "latency_ns",  # from the device's call to its answer
    "pc",  # RIP of the instruction, -1 if the hypervisor did not tell
    "count",  # elements of `size` bytes that the device took in one call
)

(
    TIME_NS,
    VM,
    VCPU,
    SEQUENCE,
    SPACE,
    DIRECTION,
    ADDRESS,
    SIZE,
    VALUE,
    DEVICE,
    GENERATION,
    REGISTER,
    STATUS,
    LATENCY_NS,
    PC,
    COUNT,
) = range(len(COLUMNS))

STATUSES: Final = (
    "ok",
    "unclaimed",  # nobody claims the address: its range's policy answered
    "size",  # the region does not answer this size or alignment
    "quarantined",  # the device is out of service
    "pending",  # the device owes the answer
    "forwarded",  # handed back to the hypervisor
    "answered",  # at a break, by somebody else than the device
)
