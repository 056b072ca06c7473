"""The exit protocol, version 1: every number and structure on the wire, in one table.

The Python codec, `include/mmiod_exit.h` and the tables of docs/protocol.md are made
from this text, so they cannot disagree.  All integers are little-endian and naturally
aligned; padding is written out as `reserved` and must be zero.  A message is one
SOCK_SEQPACKET datagram and begins with the `header`; the word `tail` in a message's
head line lets bytes follow its fixed part, and its comment says which.  The bits of
`header.flags` of message X are `enum x_flag`; a message without one has no flags.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from attrs import evolve, field, frozen

VERSION: Final = 1
MAX_MESSAGE: Final = 65536
"""Bytes; larger things travel by memfd."""

TABLE: Final = """
struct header               # begins every message
    u32 size                # bytes, header and tail included
    u16 type
    u16 flags               # unknown flags are refused

struct segment
    u64 base
    u32 limit
    u16 selector
    u16 attributes          # low 16 bits of the VMX access-rights word

struct vcpu                 # what EXIT_RAW tells of the vCPU
    u64 gpr[16]             # rax rcx rdx rbx rsp rbp rsi rdi r8..r15
    u64 rip
    u64 rflags
    u64 cr0
    u64 cr2
    u64 cr3
    u64 cr4
    u64 efer
    u64 xcr0
    u64 dr6
    u64 dr7
    segment segments[6]     # es cs ss ds fs gs
    segment tr
    segment ldtr
    segment gdtr
    segment idtr

struct exit                 # begins the body of every exit
    u32 vcpu
    u32 reserved
    u64 sequence            # per vCPU; the last one plus 1, or the last one again (a resend)
    u64 guest_ns            # guest time, with capability GUEST_TIME; else 0

struct completion           # begins the body of every completion
    u32 vcpu
    u32 interrupt           # 1: an interrupt is pending for this vCPU (capability INTR)
    u64 sequence
    u64 posted              # highest posted write of this vCPU that was applied
    u64 guest_ns            # guest time after the exit; a halt may have moved it on
    u64 deadline_ns         # guest time of the next timer, all ones if none is armed

struct supplement           # an item in the tail of exits and completions, 8-byte aligned
    u16 kind
    u16 reserved
    u32 length              # bytes, this head included, the padding to 8 not

struct supplement_translation
    u64 gva
    u64 gpa
    u32 intent
    u32 reserved

struct supplement_memory    # the bytes follow
    u64 gpa

struct supplement_vcpu      # the registers that a source's structure lacks
    u32 cpl
    u32 reserved
    vcpu vcpu

struct supplement_registers # to the daemon; register_set tells the bytes of each set, which follow in order
    u32 registers           # bits of register_set
    u32 reserved

struct supplement_vector    # to the client: a register that changed, in a DONE; its bytes follow
    u16 file                # a register_file
    u16 number
    u32 reserved

struct supplement_segment   # to the client: a segment register that was loaded, in a DONE
    u32 number              # es 0, cs 1, ss 2, ds 3, fs 4, gs 5
    u32 reserved
    segment segment

struct claim
    u64 base
    u64 length              # 0 stands for 2^64
    u8 space
    u8 policy               # 0: a device claims it; else an unclaimed_policy
    u16 reserved
    u32 reserved2
    char owner[40]          # device name, NUL-padded

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

message SHARE 76 to-daemon         # with a sealed memfd, an eventfd (the kick), a socket for each vCPU
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
    u32 client_sleeps       # not 0: the client waits for its socket
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

enum capability             # bits of hello and welcome
    GUEST_TIME 0            # guest_ns drives the clock; timers run only between exits
    INTR 1                  # the interrupt controller is here: INTR, EXIT_INTA, EXIT_HALT
    LEVELS 2                # the interrupt controller is the hypervisor's: SET_LEVEL, EOI
    MSI 3
    REQUESTS 4
    MEMORY_MESSAGES 5       # slots without descriptor: NEED_MEMORY, memory supplements
    SAVE 6
    SHARED_MEMORY 7
    PUBLISHED 8
    VECTORS 9               # NEED_REGISTERS and register supplements
    GRANTS 10               # pages and doorbells that need no exit; with PUBLISHED

enum source values          # see docs/sources.md
    NONE 0
    GHCB 1
    SVM 2
    TDVMCALL 3
    TD_L2 4
    KVM 5
    HYPERV 6
    XEN 7
    ACRN 8
    BHYVE 9

enum hello_flag
    JOIN 0                  # a further channel of a session; needs its token

enum welcome_flag
    CONTINUED 0             # the session went on where it was

enum map_flag
    READ_ONLY 0
    NO_DESCRIPTOR 1         # memory that only messages reach

enum exit_raw_flag
    GPA 0
    GVA 1
    INTENT 2
    EVENT_DELIVERY 3        # the access came from delivering an event

enum done_flag
    SHADOW 0                # MOV SS, POP SS: interrupts and `debug` wait for one more instruction

enum fault_flag
    ERROR_CODE 0
    CR2 1
    DELTA 2                 # gpr, rip, rflags and supplements are to be applied first

enum space values
    MMIO 0
    PIO 1
    PCI_CONFIG 2            # address: bus << 20 | device << 15 | function << 12 | register
    MSR 3

enum direction values
    READ 0
    WRITE 1

enum intent values
    READ 0
    WRITE 1
    EXECUTE 2

enum register_set           # each is a component of XSAVE, or three
    X87 0                   # 160 bytes: FXSAVE's image up to the end of ST7
    SSE 1                   # 256 bytes: bits 127:0 of zmm0..15
    AVX 2                   # 256 bytes: bits 255:128 of zmm0..15
    AVX512 3                # 1600 bytes: k0..7; bits 511:256 of zmm0..15; zmm16..31
    GENERAL 4               # supplement VCPU: asked for where a source's structure lacks it
    PASID 5                 # 8 bytes: IA32_PASID
    DEBUG 6                 # 32 bytes: DR0-3

enum register_file values   # what a DONE changes
    XMM 0                   # 16 bytes: bits 127:0 of zmm `number`; those above stay
    ZMM 1                   # 64 bytes: all of zmm `number`, as much of it as the vCPU has
    K 2                     # 8 bytes: k `number`
    FX 3                    # 160 bytes: like the set X87; `number` is 0

enum refusal values
    EVENT_DELIVERY 1        # the access came from delivering an event
    ADDRESS_MISMATCH 2      # the instruction does not touch the page that the exit names
    MMIO_FETCH 3            # the instruction would have to be fetched from a device

enum supplement_kind values
    TRANSLATION 1
    MEMORY 2
    REGISTERS 3
    VECTOR 4
    CODE 5                  # EXIT_SOURCE: 1..15 instruction bytes, the first ones of the instruction
    VCPU 6                  # EXIT_SOURCE: what NEED_REGISTERS calls GENERAL
    SEGMENT 7

enum request_kind values
    SHUTDOWN 1
    RESET 2
    NMI 3
    EXIT 4

enum unclaimed_policy values
    ONES 1
    ZEROS 2
    IGNORE 3
    FORWARD 4

enum shared_state values    # the client writes FREE and READY, the daemon what answers READY
    FREE 0
    READY 1                 # an exit is there
    COMPLETE 2              # its completion is there
    BY_MESSAGE 3            # send the exit as a message: the completion does not fit, or the slots end

enum published_kind values
    DEVICE 0                # no register of the device is published while its policy is 0
    READ 1
    WRITE 2
    SPAN 3                  # nobody is at these addresses: they read as `value`; writes are lost
    WINDOW 4                # reads are those of space `rate`, from `value` on
    CONFIG_WINDOW 5         # reads are those of the PCI register that `value`, as at CF8h, selects

enum grant_kind values
    PAGE 0                  # reads of 4096 bytes of guest memory, which no exit need be made for
    DOORBELL 1              # a write of one value to one address, which no exit need be made for

enum published_policy       # what needs no message now
    READ 0
    COUNTER 1               # value + (guest time - since) * rate / 10^9, modulo 2^bits
    POST 2
    OPEN 3                  # of a DEVICE
    ECHO 4                  # a write of all of it that is on its way decides the bits `rate` of the value

enum error values           # fatal unless it says otherwise; error.fatal tells
    MALFORMED 1             # size, alignment, reserved or flag bits
    UNKNOWN_TYPE 2          # or a message that goes the other way
    VERSION 3               # no version in common
    CAPABILITY 4            # one that is not offered, or was not granted
    IDENTITY 5              # VM name or token
    BUSY 6                  # the VM has a client
    STATE 7                 # not now: before HELLO; not fatal: while paused
    RANGE 8                 # a value outside what the field allows
    DESCRIPTOR 9            # count or kind of descriptors, not sealed, too short
    SLOT 10                 # unknown slot, or overlapping one
    SEQUENCE 11             # a gap, an exit too many, another exit under the same number
    LIMIT 12                # more than WELCOME allows
    UNAVAILABLE 13          # not fatal in an open session: this daemon does not offer it
    MISMATCH 14             # not fatal: a saved state that does not fit
"""

_PRIMITIVES: Final = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i32": "i", "char": "s"}
_HEAD: Final = re.compile(r"(struct|message|enum) (\w+)(?: (\d+) (to-daemon|to-client)( tail)?| (values))?$")
_FIELD: Final = re.compile(r"(\w+) (\w+)(?:\[(\d+)\])?$")


@frozen
class Member:
    """One field of a structure: `count` elements of `type` at `offset` bytes."""

    type: str
    name: str
    count: int
    offset: int
    size: int
    comment: str
    layout: Layout | None = None
    """The structure it nests, if its type is one."""


@frozen
class Layout:
    """A structure or a message; a message's members begin behind the header."""

    name: str
    members: tuple[Member, ...]
    size: int
    """Bytes; of a message with its header, without its tail."""
    comment: str
    type: int | None = None
    to_daemon: bool = False
    tail: bool = False
    format: str = field(default="", repr=False)
    """Of `struct`, little-endian, nested structures flattened, `reserved` as padding."""

    @property
    def note(self) -> str:
        """The comment, which is about the tail if there is one."""
        return f"tail: {self.comment}" if self.tail else self.comment


@frozen
class Numbers:
    """A named set of numbers: bits if `bits`, else values."""

    name: str
    bits: bool
    members: tuple[tuple[str, int, str], ...]
    comment: str

    def __getitem__(self, name: str) -> int:
        """The number itself; for bits, the mask."""
        number = next(number for known, number, _ in self.members if known == name)
        return 1 << number if self.bits else number


def _parse(text: str) -> tuple[dict[str, Layout], dict[str, Numbers]]:
    layouts: dict[str, Layout] = {}
    numbers: dict[str, Numbers] = {}
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        lines = [tuple(part.strip() for part in line.partition("#")[::2]) for line in block.splitlines()]
        (head, comment), body = lines[0], lines[1:]
        found = _HEAD.match(head)
        if found is None:
            raise ValueError(head)
        kind, name, code, towards, tail, values = found.groups()
        if kind == "enum":
            members = tuple((line.split()[0], int(line.split()[1]), note) for line, note in body)
            numbers[name] = Numbers(name, values is None, members, comment)
        else:
            start = layouts["header"].size if kind == "message" else 0
            layout = _layout(name, body, comment, start, layouts)
            if kind == "message":
                layout = evolve(
                    layout, type=int(code), to_daemon=towards == "to-daemon", tail=tail is not None
                )
            layouts[name] = layout
    return layouts, numbers


def _layout(
    name: str, body: list[tuple[str, ...]], comment: str, start: int, known: dict[str, Layout]
) -> Layout:
    """Lay members out in order; a hole is a mistake of the table, not something to pad."""
    offset, members, code = start, list[Member](), ""
    for line, note in body:
        found = _FIELD.match(line)
        if found is None:
            raise ValueError(line)
        type_, member, count = found[1], found[2], int(found[3] or 1)
        nested = known.get(type_)
        element = nested.size if nested else struct.calcsize("<" + _PRIMITIVES[type_])
        if offset % min(element, 8):
            raise ValueError(f"{name}.{member} is not aligned at {offset}")
        members.append(Member(type_, member, count, offset, element * count, note, nested))
        code += _format(type_, member, count, nested)
        offset += element * count
    if offset % max(_alignment(member) for member in members):
        raise ValueError(f"{name} ends in a hole at {offset}")
    return Layout(name, tuple(members), offset, comment, format=code)


def _alignment(member: Member) -> int:
    if member.layout:
        return max(_alignment(inner) for inner in member.layout.members)
    return struct.calcsize("<" + _PRIMITIVES[member.type])


def _format(type_: str, name: str, count: int, nested: Layout | None) -> str:
    if nested:
        return nested.format * count
    if name.startswith("reserved"):
        return f"{struct.calcsize('<' + _PRIMITIVES[type_]) * count}x"
    if type_ == "char":
        return f"{count}s"
    if type_ == "u8" and count > 1:
        return f"{count}s"
    return _PRIMITIVES[type_] * count


LAYOUTS, NUMBERS = _parse(TABLE)
MESSAGES: Final = {layout.type: layout for layout in LAYOUTS.values() if layout.type is not None}
