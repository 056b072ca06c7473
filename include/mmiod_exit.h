/*
 * The exit protocol of mmiod, version 1: see docs/protocol.md.
 * Generated from mmiod/protocol/exit/table.py by `python -m mmiod.protocol.exit.header`;
 * do not edit.
 *
 * All integers are little-endian.  A message is one SOCK_SEQPACKET datagram and begins
 * with struct mmiod_header; members named reserved are zero.
 */
#ifndef MMIOD_EXIT_H
#define MMIOD_EXIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define MMIOD_STATIC_ASSERT static_assert
#else
#define MMIOD_STATIC_ASSERT _Static_assert
#endif
#define MMIOD_SIZE(type, size) MMIOD_STATIC_ASSERT(sizeof(struct type) == (size), #type)
#define MMIOD_OFFSET(type, member, offset) \
    MMIOD_STATIC_ASSERT(offsetof(struct type, member) == (offset), #type "." #member)

#define MMIOD_EXIT_VERSION 1
#define MMIOD_EXIT_MAX_MESSAGE 65536

enum mmiod_msg {                         /* header.type */
    MMIOD_MSG_HELLO = 1,                 /* first on every connection */
    MMIOD_MSG_WELCOME = 2,
    MMIOD_MSG_RESUMED = 3,               /* a new daemon took over: resend what is unanswered */
    MMIOD_MSG_MAP = 4,                   /* guest memory; 1 descriptor unless NO_DESCRIPTOR */
    MMIOD_MSG_UNMAP = 5,                 /* acknowledged when no DMA uses the slot any more */
    MMIOD_MSG_REMAP = 6,                 /* the slot moves to another address */
    MMIOD_MSG_ACK = 7,                   /* answers the request with this serial */
    MMIOD_MSG_ERROR = 8,
    MMIOD_MSG_EXIT_DECODED = 16,         /* tail: the elements of a write of more than 8 bytes */
    MMIOD_MSG_EXIT_RAW = 17,             /* tail: supplements */
    MMIOD_MSG_EXIT_HALT = 18,            /* completed by VALUES when an interrupt is pending */
    MMIOD_MSG_EXIT_TICK = 19,            /* virtual time has reached the deadline; completed at once */
    MMIOD_MSG_EXIT_INTA = 20,            /* completed by VALUES, the value is the vector */
    MMIOD_MSG_POSTED = 21,               /* a write nobody waits for */
    MMIOD_MSG_VALUES = 32,               /* tail: the elements of a read of more than 8 bytes */
    MMIOD_MSG_DONE = 33,                 /* tail: supplements: memory to write, vector registers */
    MMIOD_MSG_FAULT = 34,                /* tail: supplements, with flag DELTA */
    MMIOD_MSG_RETRY = 35,
    MMIOD_MSG_NEED_BYTES = 36,
    MMIOD_MSG_NEED_MEMORY = 37,
    MMIOD_MSG_NEED_TRANSLATION = 38,
    MMIOD_MSG_NEED_REGISTERS = 39,
    MMIOD_MSG_UNSUPPORTED = 40,
    MMIOD_MSG_REFUSED = 41,
    MMIOD_MSG_FORWARD = 42,
    MMIOD_MSG_SET_LEVEL = 64,            /* a line of an interrupt controller in the hypervisor */
    MMIOD_MSG_EOI = 65,                  /* the guest ended a level interrupt; answered if the line is high */
    MMIOD_MSG_MSI = 66,
    MMIOD_MSG_INTR = 67,                 /* level of the interrupt request towards a vCPU */
    MMIOD_MSG_RESET = 68,                /* drops what is in flight; acknowledged */
    MMIOD_MSG_PAUSE = 69,                /* acknowledged when only halts are outstanding and the clock stands */
    MMIOD_MSG_RESUME = 70,
    MMIOD_MSG_SAVE = 71,                 /* acknowledged with 1 descriptor, value is its length */
    MMIOD_MSG_RESTORE = 72,              /* 1 descriptor */
    MMIOD_MSG_REQUEST = 73,              /* what a device asks of the hypervisor */
    MMIOD_MSG_QUERY_CLAIMS = 74,
    MMIOD_MSG_CLAIMS = 75,               /* tail: `count` claims; sent when asked and when the map changes */
    MMIOD_MSG_SHARE = 76,                /* shared memory: a memfd, a kick eventfd, an eventfd per vCPU */
};

enum mmiod_capability {                  /* bits of hello and welcome */
    MMIOD_CAPABILITY_GUEST_TIME = 1 << 0, /* guest_ns drives the clock; timers run only between exits */
    MMIOD_CAPABILITY_INTR = 1 << 1,      /* the interrupt controller is here: INTR, EXIT_INTA, EXIT_HALT */
    MMIOD_CAPABILITY_LEVELS = 1 << 2,    /* the interrupt controller is the hypervisor's: SET_LEVEL, EOI */
    MMIOD_CAPABILITY_MSI = 1 << 3,
    MMIOD_CAPABILITY_REQUESTS = 1 << 4,
    MMIOD_CAPABILITY_MEMORY_MESSAGES = 1 << 5, /* slots without descriptor: NEED_MEMORY, memory supplements */
    MMIOD_CAPABILITY_SAVE = 1 << 6,
    MMIOD_CAPABILITY_SHARED_MEMORY = 1 << 7,
    MMIOD_CAPABILITY_PUBLISHED = 1 << 8,
    MMIOD_CAPABILITY_VECTORS = 1 << 9,   /* NEED_REGISTERS and register supplements */
};

enum mmiod_hello_flag {
    MMIOD_HELLO_FLAG_JOIN = 1 << 0,      /* a further channel of a session; needs its token */
};

enum mmiod_welcome_flag {
    MMIOD_WELCOME_FLAG_CONTINUED = 1 << 0, /* the session went on where it was */
};

enum mmiod_map_flag {
    MMIOD_MAP_FLAG_READ_ONLY = 1 << 0,
    MMIOD_MAP_FLAG_NO_DESCRIPTOR = 1 << 1, /* memory that only messages reach */
};

enum mmiod_exit_raw_flag {
    MMIOD_EXIT_RAW_FLAG_GPA = 1 << 0,
    MMIOD_EXIT_RAW_FLAG_GVA = 1 << 1,
    MMIOD_EXIT_RAW_FLAG_INTENT = 1 << 2,
    MMIOD_EXIT_RAW_FLAG_EVENT_DELIVERY = 1 << 3, /* the access came from delivering an event */
};

enum mmiod_fault_flag {
    MMIOD_FAULT_FLAG_ERROR_CODE = 1 << 0,
    MMIOD_FAULT_FLAG_CR2 = 1 << 1,
    MMIOD_FAULT_FLAG_DELTA = 1 << 2,     /* gpr, rip, rflags and supplements are to be applied first */
};

enum mmiod_space {
    MMIOD_SPACE_MMIO = 0,
    MMIOD_SPACE_PIO = 1,
    MMIOD_SPACE_PCI_CONFIG = 2,          /* address: bus << 20 | device << 15 | function << 12 | register */
    MMIOD_SPACE_MSR = 3,
};

enum mmiod_direction {
    MMIOD_DIRECTION_READ = 0,
    MMIOD_DIRECTION_WRITE = 1,
};

enum mmiod_intent {
    MMIOD_INTENT_READ = 0,
    MMIOD_INTENT_WRITE = 1,
    MMIOD_INTENT_EXECUTE = 2,
};

enum mmiod_register_set {                /* bits of need_registers.registers */
    MMIOD_REGISTER_SET_X87 = 1 << 0,
    MMIOD_REGISTER_SET_SSE = 1 << 1,
    MMIOD_REGISTER_SET_AVX = 1 << 2,
    MMIOD_REGISTER_SET_AVX512 = 1 << 3,
};

enum mmiod_refusal {
    MMIOD_REFUSAL_EVENT_DELIVERY = 1,    /* the access came from delivering an event */
    MMIOD_REFUSAL_ADDRESS_MISMATCH = 2,  /* the instruction does not touch the page that the exit names */
    MMIOD_REFUSAL_MMIO_FETCH = 3,        /* the instruction would have to be fetched from a device */
};

enum mmiod_supplement_kind {
    MMIOD_SUPPLEMENT_KIND_TRANSLATION = 1,
    MMIOD_SUPPLEMENT_KIND_MEMORY = 2,
    MMIOD_SUPPLEMENT_KIND_REGISTERS = 3,
};

enum mmiod_request_kind {
    MMIOD_REQUEST_KIND_SHUTDOWN = 1,
    MMIOD_REQUEST_KIND_RESET = 2,
    MMIOD_REQUEST_KIND_NMI = 3,
    MMIOD_REQUEST_KIND_EXIT = 4,
};

enum mmiod_unclaimed_policy {
    MMIOD_UNCLAIMED_POLICY_ONES = 1,
    MMIOD_UNCLAIMED_POLICY_ZEROS = 2,
    MMIOD_UNCLAIMED_POLICY_IGNORE = 3,
    MMIOD_UNCLAIMED_POLICY_FORWARD = 4,
};

enum mmiod_shared_state {
    MMIOD_SHARED_STATE_FREE = 0,
    MMIOD_SHARED_STATE_READY = 1,
    MMIOD_SHARED_STATE_RUNNING = 2,
    MMIOD_SHARED_STATE_COMPLETE = 3,
};

enum mmiod_error {                       /* fatal unless it says otherwise; error.fatal tells */
    MMIOD_ERROR_MALFORMED = 1,           /* size, alignment, reserved or flag bits */
    MMIOD_ERROR_UNKNOWN_TYPE = 2,        /* or a message that goes the other way */
    MMIOD_ERROR_VERSION = 3,             /* no version in common */
    MMIOD_ERROR_CAPABILITY = 4,          /* one that is not offered, or was not granted */
    MMIOD_ERROR_IDENTITY = 5,            /* VM name or token */
    MMIOD_ERROR_BUSY = 6,                /* the VM has a client */
    MMIOD_ERROR_STATE = 7,               /* not now: before HELLO; not fatal: while paused */
    MMIOD_ERROR_RANGE = 8,               /* a value outside what the field allows */
    MMIOD_ERROR_DESCRIPTOR = 9,          /* count or kind of descriptors, not sealed, too short */
    MMIOD_ERROR_SLOT = 10,               /* unknown slot, or overlapping one */
    MMIOD_ERROR_SEQUENCE = 11,           /* a gap, an exit too many, another exit under the same number */
    MMIOD_ERROR_LIMIT = 12,              /* more than WELCOME allows */
    MMIOD_ERROR_UNAVAILABLE = 13,        /* not fatal in an open session: this daemon does not offer it */
    MMIOD_ERROR_MISMATCH = 14,           /* not fatal: a saved state that does not fit */
};

struct mmiod_header {                    /* begins every message */
    uint32_t size;                       /* bytes, header and tail included */
    uint16_t type;
    uint16_t flags;                      /* unknown flags are refused */
};
MMIOD_SIZE(mmiod_header, 8);
MMIOD_OFFSET(mmiod_header, size, 0);
MMIOD_OFFSET(mmiod_header, type, 4);
MMIOD_OFFSET(mmiod_header, flags, 6);

struct mmiod_segment {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint16_t attributes;                 /* low 16 bits of the VMX access-rights word */
};
MMIOD_SIZE(mmiod_segment, 16);
MMIOD_OFFSET(mmiod_segment, base, 0);
MMIOD_OFFSET(mmiod_segment, limit, 8);
MMIOD_OFFSET(mmiod_segment, selector, 12);
MMIOD_OFFSET(mmiod_segment, attributes, 14);

struct mmiod_vcpu {                      /* what EXIT_RAW tells of the vCPU */
    uint64_t gpr[16];                    /* rax rcx rdx rbx rsp rbp rsi rdi r8..r15 */
    uint64_t rip;
    uint64_t rflags;
    uint64_t cr0;
    uint64_t cr2;
    uint64_t cr3;
    uint64_t cr4;
    uint64_t efer;
    uint64_t xcr0;
    uint64_t dr6;
    uint64_t dr7;
    struct mmiod_segment segments[6];    /* es cs ss ds fs gs */
    struct mmiod_segment tr;
    struct mmiod_segment ldtr;
    struct mmiod_segment gdtr;
    struct mmiod_segment idtr;
};
MMIOD_SIZE(mmiod_vcpu, 368);
MMIOD_OFFSET(mmiod_vcpu, gpr, 0);
MMIOD_OFFSET(mmiod_vcpu, rip, 128);
MMIOD_OFFSET(mmiod_vcpu, rflags, 136);
MMIOD_OFFSET(mmiod_vcpu, cr0, 144);
MMIOD_OFFSET(mmiod_vcpu, cr2, 152);
MMIOD_OFFSET(mmiod_vcpu, cr3, 160);
MMIOD_OFFSET(mmiod_vcpu, cr4, 168);
MMIOD_OFFSET(mmiod_vcpu, efer, 176);
MMIOD_OFFSET(mmiod_vcpu, xcr0, 184);
MMIOD_OFFSET(mmiod_vcpu, dr6, 192);
MMIOD_OFFSET(mmiod_vcpu, dr7, 200);
MMIOD_OFFSET(mmiod_vcpu, segments, 208);
MMIOD_OFFSET(mmiod_vcpu, tr, 304);
MMIOD_OFFSET(mmiod_vcpu, ldtr, 320);
MMIOD_OFFSET(mmiod_vcpu, gdtr, 336);
MMIOD_OFFSET(mmiod_vcpu, idtr, 352);

struct mmiod_exit {                      /* begins the body of every exit */
    uint32_t vcpu;
    uint32_t reserved;
    uint64_t sequence;                   /* per vCPU; the last one plus 1, or the last one again (a resend) */
    uint64_t guest_ns;                   /* guest time, with capability GUEST_TIME; else 0 */
};
MMIOD_SIZE(mmiod_exit, 24);
MMIOD_OFFSET(mmiod_exit, vcpu, 0);
MMIOD_OFFSET(mmiod_exit, reserved, 4);
MMIOD_OFFSET(mmiod_exit, sequence, 8);
MMIOD_OFFSET(mmiod_exit, guest_ns, 16);

struct mmiod_completion {                /* begins the body of every completion */
    uint32_t vcpu;
    uint32_t interrupt;                  /* 1: an interrupt is pending for this vCPU (capability INTR) */
    uint64_t sequence;
    uint64_t posted;                     /* highest posted write of this vCPU that was applied */
    uint64_t guest_ns;                   /* guest time after the exit; a halt may have moved it on */
    uint64_t deadline_ns;                /* guest time of the next timer, all ones if none is armed */
};
MMIOD_SIZE(mmiod_completion, 40);
MMIOD_OFFSET(mmiod_completion, vcpu, 0);
MMIOD_OFFSET(mmiod_completion, interrupt, 4);
MMIOD_OFFSET(mmiod_completion, sequence, 8);
MMIOD_OFFSET(mmiod_completion, posted, 16);
MMIOD_OFFSET(mmiod_completion, guest_ns, 24);
MMIOD_OFFSET(mmiod_completion, deadline_ns, 32);

struct mmiod_supplement {                /* an item in the tail of EXIT_RAW, DONE and FAULT, 8-byte aligned */
    uint16_t kind;
    uint16_t reserved;
    uint32_t length;                     /* bytes, this head included, the padding to 8 not */
};
MMIOD_SIZE(mmiod_supplement, 8);
MMIOD_OFFSET(mmiod_supplement, kind, 0);
MMIOD_OFFSET(mmiod_supplement, reserved, 2);
MMIOD_OFFSET(mmiod_supplement, length, 4);

struct mmiod_supplement_translation {
    uint64_t gva;
    uint64_t gpa;
    uint32_t intent;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_supplement_translation, 24);
MMIOD_OFFSET(mmiod_supplement_translation, gva, 0);
MMIOD_OFFSET(mmiod_supplement_translation, gpa, 8);
MMIOD_OFFSET(mmiod_supplement_translation, intent, 16);
MMIOD_OFFSET(mmiod_supplement_translation, reserved, 20);

struct mmiod_supplement_memory {         /* the bytes follow */
    uint64_t gpa;
};
MMIOD_SIZE(mmiod_supplement_memory, 8);
MMIOD_OFFSET(mmiod_supplement_memory, gpa, 0);

struct mmiod_supplement_registers {      /* an XSAVE image in the standard form follows */
    uint32_t registers;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_supplement_registers, 8);
MMIOD_OFFSET(mmiod_supplement_registers, registers, 0);
MMIOD_OFFSET(mmiod_supplement_registers, reserved, 4);

struct mmiod_claim {
    uint64_t base;
    uint64_t length;                     /* 0 stands for 2^64 */
    uint8_t space;
    uint8_t policy;                      /* 0: a device claims it; else an unclaimed_policy */
    uint16_t reserved;
    uint32_t reserved2;
    char owner[40];                      /* device name, NUL-padded */
};
MMIOD_SIZE(mmiod_claim, 64);
MMIOD_OFFSET(mmiod_claim, base, 0);
MMIOD_OFFSET(mmiod_claim, length, 8);
MMIOD_OFFSET(mmiod_claim, space, 16);
MMIOD_OFFSET(mmiod_claim, policy, 17);
MMIOD_OFFSET(mmiod_claim, reserved, 18);
MMIOD_OFFSET(mmiod_claim, reserved2, 20);
MMIOD_OFFSET(mmiod_claim, owner, 24);

struct mmiod_msg_hello {                 /* first on every connection */
    struct mmiod_header header;
    uint16_t version_min;
    uint16_t version_max;
    uint32_t vcpus;                      /* 1..welcome.max_vcpus */
    uint64_t required;                   /* capabilities without which the client cannot work */
    uint64_t optional;                   /* capabilities it can use; unknown ones are ignored */
    uint8_t token[16];                   /* zero for a new session; WELCOME's to go on with one */
    uint64_t shared_mask;                /* address bits that mean "shared" or "encrypted", not address */
    uint64_t deadline_ns;                /* how long the client waits for a completion, 0 if for ever */
    uint32_t source;                     /* what the bodies of exits are: 0 this protocol's own structures */
    uint8_t bitness;                     /* 32 or 64 */
    uint8_t physical_bits;               /* MAXPHYADDR */
    uint16_t reserved;
    char vm[32];                         /* NUL-padded; must be the VM of this socket */
    char vendor[16];                     /* hypervisor's name, for people */
};
MMIOD_SIZE(mmiod_msg_hello, 120);
MMIOD_OFFSET(mmiod_msg_hello, header, 0);
MMIOD_OFFSET(mmiod_msg_hello, version_min, 8);
MMIOD_OFFSET(mmiod_msg_hello, version_max, 10);
MMIOD_OFFSET(mmiod_msg_hello, vcpus, 12);
MMIOD_OFFSET(mmiod_msg_hello, required, 16);
MMIOD_OFFSET(mmiod_msg_hello, optional, 24);
MMIOD_OFFSET(mmiod_msg_hello, token, 32);
MMIOD_OFFSET(mmiod_msg_hello, shared_mask, 48);
MMIOD_OFFSET(mmiod_msg_hello, deadline_ns, 56);
MMIOD_OFFSET(mmiod_msg_hello, source, 64);
MMIOD_OFFSET(mmiod_msg_hello, bitness, 68);
MMIOD_OFFSET(mmiod_msg_hello, physical_bits, 69);
MMIOD_OFFSET(mmiod_msg_hello, reserved, 70);
MMIOD_OFFSET(mmiod_msg_hello, vm, 72);
MMIOD_OFFSET(mmiod_msg_hello, vendor, 104);

struct mmiod_msg_welcome {
    struct mmiod_header header;
    uint16_t version;
    uint16_t reserved;
    uint32_t max_message;
    uint64_t capabilities;               /* all required ones and the optional ones that are granted */
    uint8_t token[16];
    uint64_t generation;                 /* counts the daemon's take-overs */
    uint64_t hook_deadline_ns;
    uint32_t max_vcpus;
    uint32_t max_slots;
    uint32_t rep_bound;                  /* iterations of a REP per exit */
    uint32_t reserved2;
};
MMIOD_SIZE(mmiod_msg_welcome, 72);
MMIOD_OFFSET(mmiod_msg_welcome, header, 0);
MMIOD_OFFSET(mmiod_msg_welcome, version, 8);
MMIOD_OFFSET(mmiod_msg_welcome, reserved, 10);
MMIOD_OFFSET(mmiod_msg_welcome, max_message, 12);
MMIOD_OFFSET(mmiod_msg_welcome, capabilities, 16);
MMIOD_OFFSET(mmiod_msg_welcome, token, 24);
MMIOD_OFFSET(mmiod_msg_welcome, generation, 40);
MMIOD_OFFSET(mmiod_msg_welcome, hook_deadline_ns, 48);
MMIOD_OFFSET(mmiod_msg_welcome, max_vcpus, 56);
MMIOD_OFFSET(mmiod_msg_welcome, max_slots, 60);
MMIOD_OFFSET(mmiod_msg_welcome, rep_bound, 64);
MMIOD_OFFSET(mmiod_msg_welcome, reserved2, 68);

struct mmiod_msg_resumed {               /* a new daemon took over: resend what is unanswered */
    struct mmiod_header header;
    uint64_t generation;
};
MMIOD_SIZE(mmiod_msg_resumed, 16);
MMIOD_OFFSET(mmiod_msg_resumed, header, 0);
MMIOD_OFFSET(mmiod_msg_resumed, generation, 8);

struct mmiod_msg_map {                   /* guest memory; 1 descriptor unless NO_DESCRIPTOR */
    struct mmiod_header header;
    uint32_t serial;
    uint32_t slot;
    uint64_t gpa;
    uint64_t length;
    uint64_t offset;                     /* into the descriptor */
};
MMIOD_SIZE(mmiod_msg_map, 40);
MMIOD_OFFSET(mmiod_msg_map, header, 0);
MMIOD_OFFSET(mmiod_msg_map, serial, 8);
MMIOD_OFFSET(mmiod_msg_map, slot, 12);
MMIOD_OFFSET(mmiod_msg_map, gpa, 16);
MMIOD_OFFSET(mmiod_msg_map, length, 24);
MMIOD_OFFSET(mmiod_msg_map, offset, 32);

struct mmiod_msg_unmap {                 /* acknowledged when no DMA uses the slot any more */
    struct mmiod_header header;
    uint32_t serial;
    uint32_t slot;
};
MMIOD_SIZE(mmiod_msg_unmap, 16);
MMIOD_OFFSET(mmiod_msg_unmap, header, 0);
MMIOD_OFFSET(mmiod_msg_unmap, serial, 8);
MMIOD_OFFSET(mmiod_msg_unmap, slot, 12);

struct mmiod_msg_remap {                 /* the slot moves to another address */
    struct mmiod_header header;
    uint32_t serial;
    uint32_t slot;
    uint64_t gpa;
};
MMIOD_SIZE(mmiod_msg_remap, 24);
MMIOD_OFFSET(mmiod_msg_remap, header, 0);
MMIOD_OFFSET(mmiod_msg_remap, serial, 8);
MMIOD_OFFSET(mmiod_msg_remap, slot, 12);
MMIOD_OFFSET(mmiod_msg_remap, gpa, 16);

struct mmiod_msg_ack {                   /* answers the request with this serial */
    struct mmiod_header header;
    uint32_t serial;
    uint32_t reserved;
    uint64_t value;
};
MMIOD_SIZE(mmiod_msg_ack, 24);
MMIOD_OFFSET(mmiod_msg_ack, header, 0);
MMIOD_OFFSET(mmiod_msg_ack, serial, 8);
MMIOD_OFFSET(mmiod_msg_ack, reserved, 12);
MMIOD_OFFSET(mmiod_msg_ack, value, 16);

struct mmiod_msg_error {
    struct mmiod_header header;
    uint32_t code;
    uint32_t fatal;                      /* 1: the daemon closes this connection now */
    uint64_t subject;                    /* sequence or serial of the offending message, else 0 */
    uint64_t value;                      /* the offending value */
    char name[40];                       /* the field: "hello.version_min" */
    char reason[120];
};
MMIOD_SIZE(mmiod_msg_error, 192);
MMIOD_OFFSET(mmiod_msg_error, header, 0);
MMIOD_OFFSET(mmiod_msg_error, code, 8);
MMIOD_OFFSET(mmiod_msg_error, fatal, 12);
MMIOD_OFFSET(mmiod_msg_error, subject, 16);
MMIOD_OFFSET(mmiod_msg_error, value, 24);
MMIOD_OFFSET(mmiod_msg_error, name, 32);
MMIOD_OFFSET(mmiod_msg_error, reason, 72);

struct mmiod_msg_exit_decoded {          /* tail: the elements of a write of more than 8 bytes */
    struct mmiod_header header;
    struct mmiod_exit exit;
    uint64_t address;
    uint64_t value;                      /* the elements of a write of up to 8 bytes, little-endian; else 0 */
    uint8_t space;
    uint8_t direction;
    uint16_t size;                       /* of one element: 1 2 4 8 16 32 64 */
    uint32_t count;                      /* elements, at least 1 */
    int32_t stride;                      /* 0 all at one address, 1 ascending, -1 descending */
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_exit_decoded, 64);
MMIOD_OFFSET(mmiod_msg_exit_decoded, header, 0);
MMIOD_OFFSET(mmiod_msg_exit_decoded, exit, 8);
MMIOD_OFFSET(mmiod_msg_exit_decoded, address, 32);
MMIOD_OFFSET(mmiod_msg_exit_decoded, value, 40);
MMIOD_OFFSET(mmiod_msg_exit_decoded, space, 48);
MMIOD_OFFSET(mmiod_msg_exit_decoded, direction, 49);
MMIOD_OFFSET(mmiod_msg_exit_decoded, size, 50);
MMIOD_OFFSET(mmiod_msg_exit_decoded, count, 52);
MMIOD_OFFSET(mmiod_msg_exit_decoded, stride, 56);
MMIOD_OFFSET(mmiod_msg_exit_decoded, reserved, 60);

struct mmiod_msg_exit_raw {              /* tail: supplements */
    struct mmiod_header header;
    struct mmiod_exit exit;
    uint64_t gpa;                        /* with flag GPA, else 0 */
    uint64_t gva;                        /* with flag GVA, else 0 */
    uint8_t intent;                      /* with flag INTENT, else 0 */
    uint8_t code_length;                 /* 0..15 */
    uint8_t cpl;
    uint8_t reserved;
    uint32_t reserved2;
    uint8_t code[16];                    /* code_length are valid */
    struct mmiod_vcpu vcpu;
};
MMIOD_SIZE(mmiod_msg_exit_raw, 440);
MMIOD_OFFSET(mmiod_msg_exit_raw, header, 0);
MMIOD_OFFSET(mmiod_msg_exit_raw, exit, 8);
MMIOD_OFFSET(mmiod_msg_exit_raw, gpa, 32);
MMIOD_OFFSET(mmiod_msg_exit_raw, gva, 40);
MMIOD_OFFSET(mmiod_msg_exit_raw, intent, 48);
MMIOD_OFFSET(mmiod_msg_exit_raw, code_length, 49);
MMIOD_OFFSET(mmiod_msg_exit_raw, cpl, 50);
MMIOD_OFFSET(mmiod_msg_exit_raw, reserved, 51);
MMIOD_OFFSET(mmiod_msg_exit_raw, reserved2, 52);
MMIOD_OFFSET(mmiod_msg_exit_raw, code, 56);
MMIOD_OFFSET(mmiod_msg_exit_raw, vcpu, 72);

struct mmiod_msg_exit_halt {             /* completed by VALUES when an interrupt is pending */
    struct mmiod_header header;
    struct mmiod_exit exit;
};
MMIOD_SIZE(mmiod_msg_exit_halt, 32);
MMIOD_OFFSET(mmiod_msg_exit_halt, header, 0);
MMIOD_OFFSET(mmiod_msg_exit_halt, exit, 8);

struct mmiod_msg_exit_tick {             /* virtual time has reached the deadline; completed at once */
    struct mmiod_header header;
    struct mmiod_exit exit;
};
MMIOD_SIZE(mmiod_msg_exit_tick, 32);
MMIOD_OFFSET(mmiod_msg_exit_tick, header, 0);
MMIOD_OFFSET(mmiod_msg_exit_tick, exit, 8);

struct mmiod_msg_exit_inta {             /* completed by VALUES, the value is the vector */
    struct mmiod_header header;
    struct mmiod_exit exit;
};
MMIOD_SIZE(mmiod_msg_exit_inta, 32);
MMIOD_OFFSET(mmiod_msg_exit_inta, header, 0);
MMIOD_OFFSET(mmiod_msg_exit_inta, exit, 8);

struct mmiod_msg_posted {                /* a write nobody waits for */
    struct mmiod_header header;
    struct mmiod_exit exit;              /* sequence counts posted writes */
    uint64_t address;
    uint64_t value;
    uint8_t space;
    uint8_t reserved;
    uint16_t size;
    uint32_t reserved2;
};
MMIOD_SIZE(mmiod_msg_posted, 56);
MMIOD_OFFSET(mmiod_msg_posted, header, 0);
MMIOD_OFFSET(mmiod_msg_posted, exit, 8);
MMIOD_OFFSET(mmiod_msg_posted, address, 32);
MMIOD_OFFSET(mmiod_msg_posted, value, 40);
MMIOD_OFFSET(mmiod_msg_posted, space, 48);
MMIOD_OFFSET(mmiod_msg_posted, reserved, 49);
MMIOD_OFFSET(mmiod_msg_posted, size, 50);
MMIOD_OFFSET(mmiod_msg_posted, reserved2, 52);

struct mmiod_msg_values {                /* tail: the elements of a read of more than 8 bytes */
    struct mmiod_header header;
    struct mmiod_completion completion;
    uint64_t value;                      /* the elements of a read of up to 8 bytes, little-endian; else 0 */
    uint32_t length;                     /* bytes of all elements: count * size of a read, 0 for a write */
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_values, 64);
MMIOD_OFFSET(mmiod_msg_values, header, 0);
MMIOD_OFFSET(mmiod_msg_values, completion, 8);
MMIOD_OFFSET(mmiod_msg_values, value, 48);
MMIOD_OFFSET(mmiod_msg_values, length, 56);
MMIOD_OFFSET(mmiod_msg_values, reserved, 60);

struct mmiod_msg_done {                  /* tail: supplements: memory to write, vector registers */
    struct mmiod_header header;
    struct mmiod_completion completion;
    uint64_t gpr[16];
    uint64_t rip;
    uint64_t rflags;
    uint32_t changed;                    /* bit n: gpr[n] is new */
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_done, 200);
MMIOD_OFFSET(mmiod_msg_done, header, 0);
MMIOD_OFFSET(mmiod_msg_done, completion, 8);
MMIOD_OFFSET(mmiod_msg_done, gpr, 48);
MMIOD_OFFSET(mmiod_msg_done, rip, 176);
MMIOD_OFFSET(mmiod_msg_done, rflags, 184);
MMIOD_OFFSET(mmiod_msg_done, changed, 192);
MMIOD_OFFSET(mmiod_msg_done, reserved, 196);

struct mmiod_msg_fault {                 /* tail: supplements, with flag DELTA */
    struct mmiod_header header;
    struct mmiod_completion completion;
    uint64_t gpr[16];                    /* with flag DELTA as in DONE: what a REP did before the fault */
    uint64_t rip;                        /* with flag DELTA, else 0: leave rip and rflags as they are */
    uint64_t rflags;
    uint32_t changed;
    uint32_t vector;
    uint32_t error_code;                 /* with flag ERROR_CODE, else 0 */
    uint32_t reserved;
    uint64_t cr2;                        /* with flag CR2, else 0 */
};
MMIOD_SIZE(mmiod_msg_fault, 216);
MMIOD_OFFSET(mmiod_msg_fault, header, 0);
MMIOD_OFFSET(mmiod_msg_fault, completion, 8);
MMIOD_OFFSET(mmiod_msg_fault, gpr, 48);
MMIOD_OFFSET(mmiod_msg_fault, rip, 176);
MMIOD_OFFSET(mmiod_msg_fault, rflags, 184);
MMIOD_OFFSET(mmiod_msg_fault, changed, 192);
MMIOD_OFFSET(mmiod_msg_fault, vector, 196);
MMIOD_OFFSET(mmiod_msg_fault, error_code, 200);
MMIOD_OFFSET(mmiod_msg_fault, reserved, 204);
MMIOD_OFFSET(mmiod_msg_fault, cr2, 208);

struct mmiod_msg_retry {
    struct mmiod_header header;
    struct mmiod_completion completion;
};
MMIOD_SIZE(mmiod_msg_retry, 48);
MMIOD_OFFSET(mmiod_msg_retry, header, 0);
MMIOD_OFFSET(mmiod_msg_retry, completion, 8);

struct mmiod_msg_need_bytes {
    struct mmiod_header header;
    struct mmiod_completion completion;
    uint64_t address;                    /* linear */
    uint32_t count;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_need_bytes, 64);
MMIOD_OFFSET(mmiod_msg_need_bytes, header, 0);
MMIOD_OFFSET(mmiod_msg_need_bytes, completion, 8);
MMIOD_OFFSET(mmiod_msg_need_bytes, address, 48);
MMIOD_OFFSET(mmiod_msg_need_bytes, count, 56);
MMIOD_OFFSET(mmiod_msg_need_bytes, reserved, 60);

struct mmiod_msg_need_memory {
    struct mmiod_header header;
    struct mmiod_completion completion;
    uint64_t gpa;
    uint32_t length;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_need_memory, 64);
MMIOD_OFFSET(mmiod_msg_need_memory, header, 0);
MMIOD_OFFSET(mmiod_msg_need_memory, completion, 8);
MMIOD_OFFSET(mmiod_msg_need_memory, gpa, 48);
MMIOD_OFFSET(mmiod_msg_need_memory, length, 56);
MMIOD_OFFSET(mmiod_msg_need_memory, reserved, 60);

struct mmiod_msg_need_translation {
    struct mmiod_header header;
    struct mmiod_completion completion;
    uint64_t gva;
    uint32_t intent;
    uint32_t cpl;
};
MMIOD_SIZE(mmiod_msg_need_translation, 64);
MMIOD_OFFSET(mmiod_msg_need_translation, header, 0);
MMIOD_OFFSET(mmiod_msg_need_translation, completion, 8);
MMIOD_OFFSET(mmiod_msg_need_translation, gva, 48);
MMIOD_OFFSET(mmiod_msg_need_translation, intent, 56);
MMIOD_OFFSET(mmiod_msg_need_translation, cpl, 60);

struct mmiod_msg_need_registers {
    struct mmiod_header header;
    struct mmiod_completion completion;
    uint32_t registers;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_need_registers, 56);
MMIOD_OFFSET(mmiod_msg_need_registers, header, 0);
MMIOD_OFFSET(mmiod_msg_need_registers, completion, 8);
MMIOD_OFFSET(mmiod_msg_need_registers, registers, 48);
MMIOD_OFFSET(mmiod_msg_need_registers, reserved, 52);

struct mmiod_msg_unsupported {
    struct mmiod_header header;
    struct mmiod_completion completion;
    uint8_t code[16];
    uint32_t code_length;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_unsupported, 72);
MMIOD_OFFSET(mmiod_msg_unsupported, header, 0);
MMIOD_OFFSET(mmiod_msg_unsupported, completion, 8);
MMIOD_OFFSET(mmiod_msg_unsupported, code, 48);
MMIOD_OFFSET(mmiod_msg_unsupported, code_length, 64);
MMIOD_OFFSET(mmiod_msg_unsupported, reserved, 68);

struct mmiod_msg_refused {
    struct mmiod_header header;
    struct mmiod_completion completion;
    uint32_t reason;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_refused, 56);
MMIOD_OFFSET(mmiod_msg_refused, header, 0);
MMIOD_OFFSET(mmiod_msg_refused, completion, 8);
MMIOD_OFFSET(mmiod_msg_refused, reason, 48);
MMIOD_OFFSET(mmiod_msg_refused, reserved, 52);

struct mmiod_msg_forward {
    struct mmiod_header header;
    struct mmiod_completion completion;
};
MMIOD_SIZE(mmiod_msg_forward, 48);
MMIOD_OFFSET(mmiod_msg_forward, header, 0);
MMIOD_OFFSET(mmiod_msg_forward, completion, 8);

struct mmiod_msg_set_level {             /* a line of an interrupt controller in the hypervisor */
    struct mmiod_header header;
    uint32_t line;
    uint32_t level;
};
MMIOD_SIZE(mmiod_msg_set_level, 16);
MMIOD_OFFSET(mmiod_msg_set_level, header, 0);
MMIOD_OFFSET(mmiod_msg_set_level, line, 8);
MMIOD_OFFSET(mmiod_msg_set_level, level, 12);

struct mmiod_msg_eoi {                   /* the guest ended a level interrupt; answered if the line is high */
    struct mmiod_header header;
    uint32_t line;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_eoi, 16);
MMIOD_OFFSET(mmiod_msg_eoi, header, 0);
MMIOD_OFFSET(mmiod_msg_eoi, line, 8);
MMIOD_OFFSET(mmiod_msg_eoi, reserved, 12);

struct mmiod_msg_msi {
    struct mmiod_header header;
    uint64_t address;
    uint32_t data;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_msi, 24);
MMIOD_OFFSET(mmiod_msg_msi, header, 0);
MMIOD_OFFSET(mmiod_msg_msi, address, 8);
MMIOD_OFFSET(mmiod_msg_msi, data, 16);
MMIOD_OFFSET(mmiod_msg_msi, reserved, 20);

struct mmiod_msg_intr {                  /* level of the interrupt request towards a vCPU */
    struct mmiod_header header;
    uint32_t vcpu;
    uint32_t level;
};
MMIOD_SIZE(mmiod_msg_intr, 16);
MMIOD_OFFSET(mmiod_msg_intr, header, 0);
MMIOD_OFFSET(mmiod_msg_intr, vcpu, 8);
MMIOD_OFFSET(mmiod_msg_intr, level, 12);

struct mmiod_msg_reset {                 /* drops what is in flight; acknowledged */
    struct mmiod_header header;
    uint32_t serial;
    uint32_t vcpu;                       /* all ones: the machine and its devices */
};
MMIOD_SIZE(mmiod_msg_reset, 16);
MMIOD_OFFSET(mmiod_msg_reset, header, 0);
MMIOD_OFFSET(mmiod_msg_reset, serial, 8);
MMIOD_OFFSET(mmiod_msg_reset, vcpu, 12);

struct mmiod_msg_pause {                 /* acknowledged when only halts are outstanding and the clock stands */
    struct mmiod_header header;
    uint32_t serial;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_pause, 16);
MMIOD_OFFSET(mmiod_msg_pause, header, 0);
MMIOD_OFFSET(mmiod_msg_pause, serial, 8);
MMIOD_OFFSET(mmiod_msg_pause, reserved, 12);

struct mmiod_msg_resume {
    struct mmiod_header header;
    uint32_t serial;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_resume, 16);
MMIOD_OFFSET(mmiod_msg_resume, header, 0);
MMIOD_OFFSET(mmiod_msg_resume, serial, 8);
MMIOD_OFFSET(mmiod_msg_resume, reserved, 12);

struct mmiod_msg_save {                  /* acknowledged with 1 descriptor, value is its length */
    struct mmiod_header header;
    uint32_t serial;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_save, 16);
MMIOD_OFFSET(mmiod_msg_save, header, 0);
MMIOD_OFFSET(mmiod_msg_save, serial, 8);
MMIOD_OFFSET(mmiod_msg_save, reserved, 12);

struct mmiod_msg_restore {               /* 1 descriptor */
    struct mmiod_header header;
    uint32_t serial;
    uint32_t reserved;
    uint64_t length;
};
MMIOD_SIZE(mmiod_msg_restore, 24);
MMIOD_OFFSET(mmiod_msg_restore, header, 0);
MMIOD_OFFSET(mmiod_msg_restore, serial, 8);
MMIOD_OFFSET(mmiod_msg_restore, reserved, 12);
MMIOD_OFFSET(mmiod_msg_restore, length, 16);

struct mmiod_msg_request {               /* what a device asks of the hypervisor */
    struct mmiod_header header;
    uint32_t kind;
    uint32_t vcpu;                       /* all ones: the machine */
    uint64_t value;                      /* exit code */
};
MMIOD_SIZE(mmiod_msg_request, 24);
MMIOD_OFFSET(mmiod_msg_request, header, 0);
MMIOD_OFFSET(mmiod_msg_request, kind, 8);
MMIOD_OFFSET(mmiod_msg_request, vcpu, 12);
MMIOD_OFFSET(mmiod_msg_request, value, 16);

struct mmiod_msg_query_claims {
    struct mmiod_header header;
    uint32_t serial;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_query_claims, 16);
MMIOD_OFFSET(mmiod_msg_query_claims, header, 0);
MMIOD_OFFSET(mmiod_msg_query_claims, serial, 8);
MMIOD_OFFSET(mmiod_msg_query_claims, reserved, 12);

struct mmiod_msg_claims {                /* tail: `count` claims; sent when asked and when the map changes */
    struct mmiod_header header;
    uint32_t serial;                     /* 0 when it was not asked for */
    uint32_t count;                      /* in this message */
    uint32_t remaining;                  /* in the messages that follow */
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_claims, 24);
MMIOD_OFFSET(mmiod_msg_claims, header, 0);
MMIOD_OFFSET(mmiod_msg_claims, serial, 8);
MMIOD_OFFSET(mmiod_msg_claims, count, 12);
MMIOD_OFFSET(mmiod_msg_claims, remaining, 16);
MMIOD_OFFSET(mmiod_msg_claims, reserved, 20);

struct mmiod_msg_share {                 /* shared memory: a memfd, a kick eventfd, an eventfd per vCPU */
    struct mmiod_header header;
    uint32_t serial;
    uint32_t slots;
    uint64_t length;
};
MMIOD_SIZE(mmiod_msg_share, 24);
MMIOD_OFFSET(mmiod_msg_share, header, 0);
MMIOD_OFFSET(mmiod_msg_share, serial, 8);
MMIOD_OFFSET(mmiod_msg_share, slots, 12);
MMIOD_OFFSET(mmiod_msg_share, length, 16);

struct mmiod_shared_header {             /* at 0 of the shared memory */
    uint32_t daemon_sleeps;
    uint32_t slots;
    uint32_t slot_offset;
    uint32_t slot_stride;
    uint32_t ring_offset;
    uint32_t ring_entries;
    uint32_t page_offset;                /* published registers */
    uint32_t page_count;
};
MMIOD_SIZE(mmiod_shared_header, 32);
MMIOD_OFFSET(mmiod_shared_header, daemon_sleeps, 0);
MMIOD_OFFSET(mmiod_shared_header, slots, 4);
MMIOD_OFFSET(mmiod_shared_header, slot_offset, 8);
MMIOD_OFFSET(mmiod_shared_header, slot_stride, 12);
MMIOD_OFFSET(mmiod_shared_header, ring_offset, 16);
MMIOD_OFFSET(mmiod_shared_header, ring_entries, 20);
MMIOD_OFFSET(mmiod_shared_header, page_offset, 24);
MMIOD_OFFSET(mmiod_shared_header, page_count, 28);

struct mmiod_shared_slot {               /* one per vCPU; a message of this protocol follows */
    uint32_t state;
    uint32_t client_sleeps;
    uint64_t posted;
};
MMIOD_SIZE(mmiod_shared_slot, 16);
MMIOD_OFFSET(mmiod_shared_slot, state, 0);
MMIOD_OFFSET(mmiod_shared_slot, client_sleeps, 4);
MMIOD_OFFSET(mmiod_shared_slot, posted, 8);

struct mmiod_shared_posted {             /* an entry of a vCPU's posted-write ring */
    uint64_t address;
    uint64_t value;
    uint8_t space;
    uint8_t reserved;
    uint16_t size;
    uint32_t reserved2;
};
MMIOD_SIZE(mmiod_shared_posted, 24);
MMIOD_OFFSET(mmiod_shared_posted, address, 0);
MMIOD_OFFSET(mmiod_shared_posted, value, 8);
MMIOD_OFFSET(mmiod_shared_posted, space, 16);
MMIOD_OFFSET(mmiod_shared_posted, reserved, 17);
MMIOD_OFFSET(mmiod_shared_posted, size, 18);
MMIOD_OFFSET(mmiod_shared_posted, reserved2, 20);

struct mmiod_shared_register {           /* policy and value of a published register */
    uint64_t address;
    uint64_t value;
    uint32_t policy;
    uint32_t size;
};
MMIOD_SIZE(mmiod_shared_register, 24);
MMIOD_OFFSET(mmiod_shared_register, address, 0);
MMIOD_OFFSET(mmiod_shared_register, value, 8);
MMIOD_OFFSET(mmiod_shared_register, policy, 16);
MMIOD_OFFSET(mmiod_shared_register, size, 20);

#undef MMIOD_OFFSET
#undef MMIOD_SIZE
#undef MMIOD_STATIC_ASSERT

#endif /* MMIOD_EXIT_H */
