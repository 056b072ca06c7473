/*
 * The exit protocol of mmiod, version 1: see docs/protocol.md.
 * Generated from table/, slots.h, grants.h, client.h and published.h in mmiod/protocol/exit/
 * by `python -m mmiod.protocol.exit.header`; do not edit.
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
    MMIOD_MSG_EXIT_SOURCE = 22,          /* tail: the source's structure, zeros up to a multiple of 8, supplements */
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
    MMIOD_MSG_REPLY = 43,                /* tail: the source's structure, zeros up to a multiple of 8, supplements */
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
    MMIOD_MSG_SHARE = 76,                /* with a sealed memfd, an eventfd (the kick), an epoll (ear) for each vCPU */
    MMIOD_MSG_GRANT = 77,                /* it may stand until REVOKE; a DOORBELL brings 1 descriptor, an eventfd */
    MMIOD_MSG_REVOKE = 78,               /* answered by REVOKED when it does not stand any more */
    MMIOD_MSG_REVOKED = 79,
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
    MMIOD_CAPABILITY_GRANTS = 1 << 10,   /* pages and doorbells that need no exit; with PUBLISHED */
};

enum mmiod_source {                      /* see docs/sources.md */
    MMIOD_SOURCE_NONE = 0,
    MMIOD_SOURCE_GHCB = 1,
    MMIOD_SOURCE_SVM = 2,
    MMIOD_SOURCE_TDVMCALL = 3,
    MMIOD_SOURCE_TD_L2 = 4,
    MMIOD_SOURCE_KVM = 5,
    MMIOD_SOURCE_HYPERV = 6,
    MMIOD_SOURCE_XEN = 7,
    MMIOD_SOURCE_ACRN = 8,
    MMIOD_SOURCE_BHYVE = 9,
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

enum mmiod_done_flag {
    MMIOD_DONE_FLAG_SHADOW = 1 << 0,     /* MOV SS, POP SS: interrupts and `debug` wait for one more instruction */
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

enum mmiod_register_set {                /* each is a component of XSAVE, or three */
    MMIOD_REGISTER_SET_X87 = 1 << 0,     /* 160 bytes: FXSAVE's image up to the end of ST7 */
    MMIOD_REGISTER_SET_SSE = 1 << 1,     /* 256 bytes: bits 127:0 of zmm0..15 */
    MMIOD_REGISTER_SET_AVX = 1 << 2,     /* 256 bytes: bits 255:128 of zmm0..15 */
    MMIOD_REGISTER_SET_AVX512 = 1 << 3,  /* 1600 bytes: k0..7; bits 511:256 of zmm0..15; zmm16..31 */
    MMIOD_REGISTER_SET_GENERAL = 1 << 4, /* supplement VCPU: asked for where a source's structure lacks it */
    MMIOD_REGISTER_SET_PASID = 1 << 5,   /* 8 bytes: IA32_PASID */
    MMIOD_REGISTER_SET_DEBUG = 1 << 6,   /* 32 bytes: DR0-3 */
};

enum mmiod_register_file {               /* what a DONE changes */
    MMIOD_REGISTER_FILE_XMM = 0,         /* 16 bytes: bits 127:0 of zmm `number`; those above stay */
    MMIOD_REGISTER_FILE_ZMM = 1,         /* 64 bytes: all of zmm `number`, as much of it as the vCPU has */
    MMIOD_REGISTER_FILE_K = 2,           /* 8 bytes: k `number` */
    MMIOD_REGISTER_FILE_FX = 3,          /* 160 bytes: like the set X87; `number` is 0 */
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
    MMIOD_SUPPLEMENT_KIND_VECTOR = 4,
    MMIOD_SUPPLEMENT_KIND_CODE = 5,      /* EXIT_SOURCE: 1..15 instruction bytes, the first ones of the instruction */
    MMIOD_SUPPLEMENT_KIND_VCPU = 6,      /* EXIT_SOURCE: what NEED_REGISTERS calls GENERAL */
    MMIOD_SUPPLEMENT_KIND_SEGMENT = 7,
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

enum mmiod_shared_state {                /* the client writes FREE and READY, the daemon what answers READY */
    MMIOD_SHARED_STATE_FREE = 0,
    MMIOD_SHARED_STATE_READY = 1,        /* an exit is there */
    MMIOD_SHARED_STATE_COMPLETE = 2,     /* its completion is there */
    MMIOD_SHARED_STATE_BY_MESSAGE = 3,   /* send the exit as a message: the completion does not fit, or the slots end */
};

enum mmiod_published_kind {
    MMIOD_PUBLISHED_KIND_DEVICE = 0,     /* no register of the device is published while its policy is 0 */
    MMIOD_PUBLISHED_KIND_READ = 1,
    MMIOD_PUBLISHED_KIND_WRITE = 2,
    MMIOD_PUBLISHED_KIND_SPAN = 3,       /* nobody is at these addresses: they read as `value`; writes are lost */
    MMIOD_PUBLISHED_KIND_WINDOW = 4,     /* reads are those of space `rate`, from `value` on */
    MMIOD_PUBLISHED_KIND_CONFIG_WINDOW = 5, /* reads are those of the PCI register that `value`, as at CF8h, selects */
};

enum mmiod_grant_kind {
    MMIOD_GRANT_KIND_PAGE = 0,           /* reads of 4096 bytes of guest memory, which no exit need be made for */
    MMIOD_GRANT_KIND_DOORBELL = 1,       /* a write of one value to one address, which no exit need be made for */
};

enum mmiod_published_policy {            /* what needs no message now */
    MMIOD_PUBLISHED_POLICY_READ = 1 << 0,
    MMIOD_PUBLISHED_POLICY_COUNTER = 1 << 1, /* value + (guest time - since) * rate / 10^9, modulo 2^bits */
    MMIOD_PUBLISHED_POLICY_POST = 1 << 2,
    MMIOD_PUBLISHED_POLICY_OPEN = 1 << 3, /* of a DEVICE */
    MMIOD_PUBLISHED_POLICY_ECHO = 1 << 4, /* a write of all of it that is on its way decides the bits `rate` of the value */
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

struct mmiod_supplement {                /* an item in the tail of exits and completions, 8-byte aligned */
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

struct mmiod_supplement_vcpu {           /* the registers that a source's structure lacks */
    uint32_t cpl;
    uint32_t reserved;
    struct mmiod_vcpu vcpu;
};
MMIOD_SIZE(mmiod_supplement_vcpu, 376);
MMIOD_OFFSET(mmiod_supplement_vcpu, cpl, 0);
MMIOD_OFFSET(mmiod_supplement_vcpu, reserved, 4);
MMIOD_OFFSET(mmiod_supplement_vcpu, vcpu, 8);

struct mmiod_supplement_registers {      /* to the daemon; register_set tells the bytes of each set, which follow in order */
    uint32_t registers;                  /* bits of register_set */
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_supplement_registers, 8);
MMIOD_OFFSET(mmiod_supplement_registers, registers, 0);
MMIOD_OFFSET(mmiod_supplement_registers, reserved, 4);

struct mmiod_supplement_vector {         /* to the client: a register that changed, in a DONE; its bytes follow */
    uint16_t file;                       /* a register_file */
    uint16_t number;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_supplement_vector, 8);
MMIOD_OFFSET(mmiod_supplement_vector, file, 0);
MMIOD_OFFSET(mmiod_supplement_vector, number, 2);
MMIOD_OFFSET(mmiod_supplement_vector, reserved, 4);

struct mmiod_supplement_segment {        /* to the client: a segment register that was loaded, in a DONE */
    uint32_t number;                     /* es 0, cs 1, ss 2, ds 3, fs 4, gs 5 */
    uint32_t reserved;
    struct mmiod_segment segment;
};
MMIOD_SIZE(mmiod_supplement_segment, 24);
MMIOD_OFFSET(mmiod_supplement_segment, number, 0);
MMIOD_OFFSET(mmiod_supplement_segment, reserved, 4);
MMIOD_OFFSET(mmiod_supplement_segment, segment, 8);

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
    uint32_t source;                     /* whose structures EXIT_SOURCE brings, 0 if it is not used */
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

struct mmiod_msg_exit_source {           /* tail: the source's structure, zeros up to a multiple of 8, supplements */
    struct mmiod_header header;
    struct mmiod_exit exit;
    uint32_t length;                     /* bytes of the structure */
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_exit_source, 40);
MMIOD_OFFSET(mmiod_msg_exit_source, header, 0);
MMIOD_OFFSET(mmiod_msg_exit_source, exit, 8);
MMIOD_OFFSET(mmiod_msg_exit_source, length, 32);
MMIOD_OFFSET(mmiod_msg_exit_source, reserved, 36);

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
    uint32_t debug;                      /* not 0: raise #DB then, and DR6 gets these bits (BS, B0-B3) */
};
MMIOD_SIZE(mmiod_msg_done, 200);
MMIOD_OFFSET(mmiod_msg_done, header, 0);
MMIOD_OFFSET(mmiod_msg_done, completion, 8);
MMIOD_OFFSET(mmiod_msg_done, gpr, 48);
MMIOD_OFFSET(mmiod_msg_done, rip, 176);
MMIOD_OFFSET(mmiod_msg_done, rflags, 184);
MMIOD_OFFSET(mmiod_msg_done, changed, 192);
MMIOD_OFFSET(mmiod_msg_done, debug, 196);

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

struct mmiod_msg_reply {                 /* tail: the source's structure, zeros up to a multiple of 8, supplements */
    struct mmiod_header header;
    struct mmiod_completion completion;
    uint32_t length;                     /* bytes of the structure */
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_reply, 56);
MMIOD_OFFSET(mmiod_msg_reply, header, 0);
MMIOD_OFFSET(mmiod_msg_reply, completion, 8);
MMIOD_OFFSET(mmiod_msg_reply, length, 48);
MMIOD_OFFSET(mmiod_msg_reply, reserved, 52);

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

struct mmiod_msg_share {                 /* with a sealed memfd, an eventfd (the kick), an epoll (ear) for each vCPU */
    struct mmiod_header header;
    uint32_t serial;
    uint32_t slots;                      /* as many as the session has vCPUs */
    uint64_t length;                     /* of the memfd: 4096 * (1 + slots) bytes or more */
};
MMIOD_SIZE(mmiod_msg_share, 24);
MMIOD_OFFSET(mmiod_msg_share, header, 0);
MMIOD_OFFSET(mmiod_msg_share, serial, 8);
MMIOD_OFFSET(mmiod_msg_share, slots, 12);
MMIOD_OFFSET(mmiod_msg_share, length, 16);

struct mmiod_msg_grant {                 /* it may stand until REVOKE; a DOORBELL brings 1 descriptor, an eventfd */
    struct mmiod_header header;
    uint32_t number;                     /* of the grant; not used again on this connection */
    uint8_t kind;                        /* a grant_kind */
    uint8_t space;
    uint16_t size;                       /* of a doorbell: of the write */
    uint64_t address;
    uint64_t value;                      /* of a doorbell: what is written; of a page: where it is in the shared memory */
};
MMIOD_SIZE(mmiod_msg_grant, 32);
MMIOD_OFFSET(mmiod_msg_grant, header, 0);
MMIOD_OFFSET(mmiod_msg_grant, number, 8);
MMIOD_OFFSET(mmiod_msg_grant, kind, 12);
MMIOD_OFFSET(mmiod_msg_grant, space, 13);
MMIOD_OFFSET(mmiod_msg_grant, size, 14);
MMIOD_OFFSET(mmiod_msg_grant, address, 16);
MMIOD_OFFSET(mmiod_msg_grant, value, 24);

struct mmiod_msg_revoke {                /* answered by REVOKED when it does not stand any more */
    struct mmiod_header header;
    uint32_t number;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_revoke, 16);
MMIOD_OFFSET(mmiod_msg_revoke, header, 0);
MMIOD_OFFSET(mmiod_msg_revoke, number, 8);
MMIOD_OFFSET(mmiod_msg_revoke, reserved, 12);

struct mmiod_msg_revoked {
    struct mmiod_header header;
    uint32_t number;
    uint32_t reserved;
};
MMIOD_SIZE(mmiod_msg_revoked, 16);
MMIOD_OFFSET(mmiod_msg_revoked, header, 0);
MMIOD_OFFSET(mmiod_msg_revoked, number, 8);
MMIOD_OFFSET(mmiod_msg_revoked, reserved, 12);

struct mmiod_shared_header {             /* at 0 of the shared memory; the slot of vCPU n is at 4096 * (1 + n) */
    uint32_t daemon_sleeps;              /* not 0: the daemon waits for the kick */
    uint32_t reserved;
    uint64_t published_offset;           /* published registers, with capability PUBLISHED; else 0 */
    uint64_t published_length;
    uint8_t reserved2[40];
    uint8_t doorbells[256];              /* of vCPU n: one more, modulo 256, whenever its slot has something new */
};
MMIOD_SIZE(mmiod_shared_header, 320);
MMIOD_OFFSET(mmiod_shared_header, daemon_sleeps, 0);
MMIOD_OFFSET(mmiod_shared_header, reserved, 4);
MMIOD_OFFSET(mmiod_shared_header, published_offset, 8);
MMIOD_OFFSET(mmiod_shared_header, published_length, 16);
MMIOD_OFFSET(mmiod_shared_header, reserved2, 24);
MMIOD_OFFSET(mmiod_shared_header, doorbells, 64);

struct mmiod_shared_posted {             /* entry sequence % 64 of a vCPU's ring: what POSTED has */
    uint64_t address;
    uint64_t value;
    uint8_t space;
    uint8_t reserved;
    uint16_t size;
    uint32_t reserved2;
    uint64_t guest_ns;
};
MMIOD_SIZE(mmiod_shared_posted, 32);
MMIOD_OFFSET(mmiod_shared_posted, address, 0);
MMIOD_OFFSET(mmiod_shared_posted, value, 8);
MMIOD_OFFSET(mmiod_shared_posted, space, 16);
MMIOD_OFFSET(mmiod_shared_posted, reserved, 17);
MMIOD_OFFSET(mmiod_shared_posted, size, 18);
MMIOD_OFFSET(mmiod_shared_posted, reserved2, 20);
MMIOD_OFFSET(mmiod_shared_posted, guest_ns, 24);

struct mmiod_shared_slot {               /* one per vCPU */
    uint32_t state;
    uint32_t client_sleeps;              /* not 0: the client waits for its ear */
    uint64_t posted;                     /* sequence of the last posted write in the ring */
    uint8_t reserved[48];
    uint64_t applied;                    /* the daemon's: sequence of the last posted write that it took out */
    uint8_t reserved2[56];
    uint8_t exit[896];                   /* an EXIT_* message */
    uint8_t completion[1024];            /* its completion; registers that `changed` does not name are anything */
    struct mmiod_shared_posted ring[64];
};
MMIOD_SIZE(mmiod_shared_slot, 4096);
MMIOD_OFFSET(mmiod_shared_slot, state, 0);
MMIOD_OFFSET(mmiod_shared_slot, client_sleeps, 4);
MMIOD_OFFSET(mmiod_shared_slot, posted, 8);
MMIOD_OFFSET(mmiod_shared_slot, reserved, 16);
MMIOD_OFFSET(mmiod_shared_slot, applied, 64);
MMIOD_OFFSET(mmiod_shared_slot, reserved2, 72);
MMIOD_OFFSET(mmiod_shared_slot, exit, 128);
MMIOD_OFFSET(mmiod_shared_slot, completion, 1024);
MMIOD_OFFSET(mmiod_shared_slot, ring, 2048);

struct mmiod_published_header {          /* begins the published registers; their rows follow */
    uint64_t generation;                 /* of the table: odd while there is none */
    uint64_t rows;
    uint64_t origin_ns;                  /* what CLOCK_MONOTONIC was at 0 of the guest's clock */
    uint8_t reserved[40];
};
MMIOD_SIZE(mmiod_published_header, 64);
MMIOD_OFFSET(mmiod_published_header, generation, 0);
MMIOD_OFFSET(mmiod_published_header, rows, 8);
MMIOD_OFFSET(mmiod_published_header, origin_ns, 16);
MMIOD_OFFSET(mmiod_published_header, reserved, 24);

struct mmiod_published_row {
    uint64_t address;
    uint8_t space;
    uint8_t size;
    uint8_t least;                       /* bytes of the smallest part that can be read alone */
    uint8_t kind;                        /* a published_kind */
    uint32_t device;                     /* number of the row that is its device's */
    uint64_t policy;                     /* bits of published_policy; above bit 7 a version, of which no two are alike */
    uint64_t value;
    uint64_t affected;                   /* bit n: it waits for posted writes to row device + 1 + n */
    uint64_t since;                      /* of a counter: guest time of `value`, in ns; of spans and windows: their length */
    uint64_t rate;                       /* of a counter: Hz; of a window: the other space; of ECHO: bits of the value */
    uint64_t bits;                       /* of a counter: its width */
};
MMIOD_SIZE(mmiod_published_row, 64);
MMIOD_OFFSET(mmiod_published_row, address, 0);
MMIOD_OFFSET(mmiod_published_row, space, 8);
MMIOD_OFFSET(mmiod_published_row, size, 9);
MMIOD_OFFSET(mmiod_published_row, least, 10);
MMIOD_OFFSET(mmiod_published_row, kind, 11);
MMIOD_OFFSET(mmiod_published_row, device, 12);
MMIOD_OFFSET(mmiod_published_row, policy, 16);
MMIOD_OFFSET(mmiod_published_row, value, 24);
MMIOD_OFFSET(mmiod_published_row, affected, 32);
MMIOD_OFFSET(mmiod_published_row, since, 40);
MMIOD_OFFSET(mmiod_published_row, rate, 48);
MMIOD_OFFSET(mmiod_published_row, bits, 56);

#undef MMIOD_OFFSET
#undef MMIOD_SIZE
#undef MMIOD_STATIC_ASSERT

union mmiod_message {                    /* any message, as header.type says */
    struct mmiod_header header;
    struct mmiod_msg_hello hello;
    struct mmiod_msg_welcome welcome;
    struct mmiod_msg_resumed resumed;
    struct mmiod_msg_map map;
    struct mmiod_msg_unmap unmap;
    struct mmiod_msg_remap remap;
    struct mmiod_msg_ack ack;
    struct mmiod_msg_error error;
    struct mmiod_msg_exit_decoded exit_decoded;
    struct mmiod_msg_exit_raw exit_raw;
    struct mmiod_msg_exit_halt exit_halt;
    struct mmiod_msg_exit_tick exit_tick;
    struct mmiod_msg_exit_inta exit_inta;
    struct mmiod_msg_posted posted;
    struct mmiod_msg_exit_source exit_source;
    struct mmiod_msg_values values;
    struct mmiod_msg_done done;
    struct mmiod_msg_fault fault;
    struct mmiod_msg_retry retry;
    struct mmiod_msg_need_bytes need_bytes;
    struct mmiod_msg_need_memory need_memory;
    struct mmiod_msg_need_translation need_translation;
    struct mmiod_msg_need_registers need_registers;
    struct mmiod_msg_unsupported unsupported;
    struct mmiod_msg_refused refused;
    struct mmiod_msg_forward forward;
    struct mmiod_msg_reply reply;
    struct mmiod_msg_set_level set_level;
    struct mmiod_msg_eoi eoi;
    struct mmiod_msg_msi msi;
    struct mmiod_msg_intr intr;
    struct mmiod_msg_reset reset;
    struct mmiod_msg_pause pause;
    struct mmiod_msg_resume resume;
    struct mmiod_msg_save save;
    struct mmiod_msg_restore restore;
    struct mmiod_msg_request request;
    struct mmiod_msg_query_claims query_claims;
    struct mmiod_msg_claims claims;
    struct mmiod_msg_share share;
    struct mmiod_msg_grant grant;
    struct mmiod_msg_revoke revoke;
    struct mmiod_msg_revoked revoked;
    uint8_t bytes[MMIOD_EXIT_MAX_MESSAGE];
};

/* Bytes of a message without its tail; 0 for a type that does not exist. */
static inline uint32_t mmiod_message_size(uint16_t type)
{
    switch (type) {
    case MMIOD_MSG_HELLO: return sizeof(struct mmiod_msg_hello);
    case MMIOD_MSG_WELCOME: return sizeof(struct mmiod_msg_welcome);
    case MMIOD_MSG_RESUMED: return sizeof(struct mmiod_msg_resumed);
    case MMIOD_MSG_MAP: return sizeof(struct mmiod_msg_map);
    case MMIOD_MSG_UNMAP: return sizeof(struct mmiod_msg_unmap);
    case MMIOD_MSG_REMAP: return sizeof(struct mmiod_msg_remap);
    case MMIOD_MSG_ACK: return sizeof(struct mmiod_msg_ack);
    case MMIOD_MSG_ERROR: return sizeof(struct mmiod_msg_error);
    case MMIOD_MSG_EXIT_DECODED: return sizeof(struct mmiod_msg_exit_decoded);
    case MMIOD_MSG_EXIT_RAW: return sizeof(struct mmiod_msg_exit_raw);
    case MMIOD_MSG_EXIT_HALT: return sizeof(struct mmiod_msg_exit_halt);
    case MMIOD_MSG_EXIT_TICK: return sizeof(struct mmiod_msg_exit_tick);
    case MMIOD_MSG_EXIT_INTA: return sizeof(struct mmiod_msg_exit_inta);
    case MMIOD_MSG_POSTED: return sizeof(struct mmiod_msg_posted);
    case MMIOD_MSG_EXIT_SOURCE: return sizeof(struct mmiod_msg_exit_source);
    case MMIOD_MSG_VALUES: return sizeof(struct mmiod_msg_values);
    case MMIOD_MSG_DONE: return sizeof(struct mmiod_msg_done);
    case MMIOD_MSG_FAULT: return sizeof(struct mmiod_msg_fault);
    case MMIOD_MSG_RETRY: return sizeof(struct mmiod_msg_retry);
    case MMIOD_MSG_NEED_BYTES: return sizeof(struct mmiod_msg_need_bytes);
    case MMIOD_MSG_NEED_MEMORY: return sizeof(struct mmiod_msg_need_memory);
    case MMIOD_MSG_NEED_TRANSLATION: return sizeof(struct mmiod_msg_need_translation);
    case MMIOD_MSG_NEED_REGISTERS: return sizeof(struct mmiod_msg_need_registers);
    case MMIOD_MSG_UNSUPPORTED: return sizeof(struct mmiod_msg_unsupported);
    case MMIOD_MSG_REFUSED: return sizeof(struct mmiod_msg_refused);
    case MMIOD_MSG_FORWARD: return sizeof(struct mmiod_msg_forward);
    case MMIOD_MSG_REPLY: return sizeof(struct mmiod_msg_reply);
    case MMIOD_MSG_SET_LEVEL: return sizeof(struct mmiod_msg_set_level);
    case MMIOD_MSG_EOI: return sizeof(struct mmiod_msg_eoi);
    case MMIOD_MSG_MSI: return sizeof(struct mmiod_msg_msi);
    case MMIOD_MSG_INTR: return sizeof(struct mmiod_msg_intr);
    case MMIOD_MSG_RESET: return sizeof(struct mmiod_msg_reset);
    case MMIOD_MSG_PAUSE: return sizeof(struct mmiod_msg_pause);
    case MMIOD_MSG_RESUME: return sizeof(struct mmiod_msg_resume);
    case MMIOD_MSG_SAVE: return sizeof(struct mmiod_msg_save);
    case MMIOD_MSG_RESTORE: return sizeof(struct mmiod_msg_restore);
    case MMIOD_MSG_REQUEST: return sizeof(struct mmiod_msg_request);
    case MMIOD_MSG_QUERY_CLAIMS: return sizeof(struct mmiod_msg_query_claims);
    case MMIOD_MSG_CLAIMS: return sizeof(struct mmiod_msg_claims);
    case MMIOD_MSG_SHARE: return sizeof(struct mmiod_msg_share);
    case MMIOD_MSG_GRANT: return sizeof(struct mmiod_msg_grant);
    case MMIOD_MSG_REVOKE: return sizeof(struct mmiod_msg_revoke);
    case MMIOD_MSG_REVOKED: return sizeof(struct mmiod_msg_revoked);
    default: return 0;
    }
}

/*
 * Exits in shared memory (docs/protocol.md, "Shared memory"): a client's slots, shared by all
 * its vCPU threads.  After mmiod_share everything below uses them: exits that fit go through
 * the vCPU's slot, posted writes through its ring, the rest, and what a broken connection left
 * unanswered, by message.  x86-64 only: the order of stores is the processor's.
 */
#ifndef MMIOD_EXIT_LAYOUT_ONLY

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MMIOD_SHARED_PAGE 4096u
#define MMIOD_SHARED_SLOTS 251
#define MMIOD_SHARED_RING 64u
#define MMIOD_SHARED_SPIN 400 /* looks at a slot before its client sleeps; a few us */

struct mmiod_shared {
    uint8_t *memory;
    size_t length;                       /* of the memory: what is behind the slots is for published registers */
    uint32_t slots;
    uint32_t shares;                     /* how often the daemon was told of it */
    int descriptors[2 + MMIOD_SHARED_SLOTS]; /* as SHARE sends them: memfd, kick, the vCPUs' ears */
};

static inline struct mmiod_shared_slot *mmiod_slot(const struct mmiod_shared *shared, uint32_t vcpu)
{
    return (struct mmiod_shared_slot *)(void *)(shared->memory + MMIOD_SHARED_PAGE * (1 + (size_t)vcpu));
}

/* Where the published registers are, NULL before there are any. */
static inline const uint8_t *mmiod_published(const struct mmiod_shared *shared)
{
    const struct mmiod_shared_header *header;

    header = (const struct mmiod_shared_header *)(const void *)shared->memory;
    return header->published_offset ? shared->memory + header->published_offset : NULL;
}

/* Tells the daemon that there is something new; it is kicked if it sleeps. */
static inline void mmiod_slot_ring(struct mmiod_shared *shared, uint32_t vcpu)
{
    struct mmiod_shared_header *header = (struct mmiod_shared_header *)(void *)shared->memory;
    uint8_t *bell = &header->doorbells[vcpu];

    __atomic_store_n(bell, (uint8_t)(*bell + 1), __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* its look at the bell, or ours at its flag, sees the other */
    if (__atomic_load_n(&header->daemon_sleeps, __ATOMIC_RELAXED))
        eventfd_write(shared->descriptors[1], 1);
}

/* Puts an exit into a slot that is free. */
static inline void mmiod_slot_post(struct mmiod_shared *shared, uint32_t vcpu, const void *message,
                                   size_t size)
{
    struct mmiod_shared_slot *slot = mmiod_slot(shared, vcpu);

    memcpy(slot->exit, message, size);
    __atomic_store_n(&slot->state, MMIOD_SHARED_STATE_READY, __ATOMIC_RELEASE);
    mmiod_slot_ring(shared, vcpu);
}

static inline uint32_t mmiod_slot_state(const struct mmiod_shared *shared, uint32_t vcpu)
{
    return __atomic_load_n(&mmiod_slot(shared, vcpu)->state, __ATOMIC_ACQUIRE);
}

/* Looks `looks` times whether the exit is answered: the slot's state. */
static inline uint32_t mmiod_slot_spin(const struct mmiod_shared *shared, uint32_t vcpu, uint32_t looks)
{
    uint32_t state;

    while ((state = mmiod_slot_state(shared, vcpu)) == MMIOD_SHARED_STATE_READY && looks-- > 0) {
#ifdef __x86_64__
        __builtin_ia32_pause();
#endif
    }
    return state;
}

/* Lets mmiod_slot_wait hear, too, when `other` can be read; 0 or a negative errno. */
static inline int mmiod_slot_hear(const struct mmiod_shared *shared, uint32_t vcpu, int other)
{
    struct epoll_event event;

    memset(&event, 0, sizeof(event));
    event.events = EPOLLIN;
    return epoll_ctl(shared->descriptors[2 + vcpu], EPOLL_CTL_ADD, other, &event) < 0 && errno != EEXIST
               ? -errno
               : 0;
}

/*
 * Sleeps until the exit may be answered, or what else the vCPU's ear hears: the slot's state.  That is
 * one system call, as a wake-up is nothing that is to be read: the daemon's eventfd is in the ear,
 * edge-triggered.
 */
static inline uint32_t mmiod_slot_wait(const struct mmiod_shared *shared, uint32_t vcpu)
{
    struct mmiod_shared_slot *slot = mmiod_slot(shared, vcpu);
    struct epoll_event heard[2];

    __atomic_store_n(&slot->client_sleeps, 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (mmiod_slot_state(shared, vcpu) == MMIOD_SHARED_STATE_READY)
        epoll_wait(shared->descriptors[2 + vcpu], heard, 2, -1);
    __atomic_store_n(&slot->client_sleeps, 0, __ATOMIC_RELAXED);
    return mmiod_slot_state(shared, vcpu);
}

/* Gives it back, behind mmiod_close of all its clients; the memfd stays the caller's. */
static inline void mmiod_shared_close(struct mmiod_shared *shared)
{
    uint32_t n;

    munmap(shared->memory, shared->length);
    close(shared->descriptors[1]);
    for (n = 0; n < shared->slots; n++)
        close(shared->descriptors[2 + n]);
}

/* Makes the client's side for `slots` vCPUs in a memfd that is the caller's: see mmiod_share. */
static inline int mmiod_shared_init(struct mmiod_shared *shared, int memfd, uint32_t slots)
{
    off_t end = lseek(memfd, 0, SEEK_END);
    size_t length = end > 0 ? (size_t)end : 0;
    void *memory;
    int result;

    memset(shared, 0, sizeof(*shared));
    if (slots > MMIOD_SHARED_SLOTS || length < MMIOD_SHARED_PAGE * (1 + (size_t)slots))
        return -EINVAL;
    memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    shared->memory = (uint8_t *)memory;
    shared->length = length;
    shared->shares = 1;
    shared->descriptors[0] = memfd;
    shared->descriptors[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    while (shared->descriptors[1] >= 0 && shared->slots < slots) {
        int ear = epoll_create1(EPOLL_CLOEXEC);
        if (ear < 0)
            break;
        shared->descriptors[2 + shared->slots++] = ear;
    }
    if (shared->descriptors[1] >= 0 && shared->slots == slots)
        return 0;
    result = -errno;
    mmiod_shared_close(shared);
    return result;
}

#endif /* MMIOD_EXIT_LAYOUT_ONLY */


/*
 * What needs no exit at all (docs/protocol.md, "Grants"): pages that the guest reads by itself,
 * doorbells that its kernel signals.  They stand where the caller puts them:
 *
 *     static struct mmiod_fixtures fixtures;
 *
 *     fixtures.change = change;
 *     client.hello.required = MMIOD_CAPABILITY_SHARED_MEMORY | MMIOD_CAPABILITY_PUBLISHED |
 *                             MMIOD_CAPABILITY_GRANTS;
 *     client.fixtures = &fixtures;                 // of the client that opens the session
 *     mmiod_share(&client, &shared, memfd);        // MMIOD_PAGES_BYTES behind MMIOD_PUBLISHED_BYTES
 *
 * The client takes them down again, answers REVOKE then, and rings what may not have been heard.
 * For that it must hear the daemon while its guest runs: see mmiod_poll.
 */
#ifndef MMIOD_EXIT_LAYOUT_ONLY

#define MMIOD_PAGES_BYTES 131072u /* room for 32 pages */
#define MMIOD_FIXTURES 96u        /* those, and 64 doorbells: more are not granted */

struct mmiod_fixture {
    struct mmiod_msg_grant grant;        /* number 0: nothing is here */
    void *page;                          /* of a PAGE: the 4096 bytes; NULL of a doorbell */
    int doorbell;                        /* of a DOORBELL: its eventfd, closed behind `change`; else -1 */
};

struct mmiod_fixtures {
    /*
     * The caller's.  It puts one up (`stands`), for KVM as a memory slot with KVM_MEM_READONLY
     * or as an ioeventfd, or takes it out of reach of all vCPUs; `place` is a number below
     * MMIOD_FIXTURES, of its own as long as it stands.  It may be called in any function that
     * receives, also by mmiod_close, and must not use the client.  Anything but 0 leaves a
     * grant unused.
     */
    int (*change)(void *context, const struct mmiod_fixture *fixture, uint32_t place, int stands);
    void *context;

    /* The client's own. */
    const struct mmiod_shared *shared;   /* where pages are */
    int again;                           /* what comes may have been rung before, and nobody heard it */
    struct mmiod_fixture places[MMIOD_FIXTURES];
};

/* The one with this number, with 0 a place for another one; NULL: there is none. */
static inline struct mmiod_fixture *mmiod_fixture_of(struct mmiod_fixtures *fixtures, uint32_t number)
{
    uint32_t place;

    for (place = 0; place < MMIOD_FIXTURES; place++)
        if (fixtures->places[place].grant.number == number)
            return &fixtures->places[place];
    return NULL;
}

static inline int mmiod_fixture_change(struct mmiod_fixtures *fixtures, const struct mmiod_fixture *fixture,
                                       int stands)
{
    return fixtures->change(fixtures->context, fixture, (uint32_t)(fixture - fixtures->places), stands);
}

static inline void mmiod_fixture_forget(struct mmiod_fixture *fixture)
{
    if (fixture->doorbell >= 0)
        close(fixture->doorbell);
    fixture->grant.number = 0;
}

/* The 4096 bytes of a PAGE; NULL of a doorbell, and if they are not in the shared memory. */
static inline void *mmiod_granted_page(const struct mmiod_fixtures *fixtures,
                                       const struct mmiod_msg_grant *grant)
{
    size_t length = fixtures->shared ? fixtures->shared->length : 0;

    if (grant->kind != MMIOD_GRANT_KIND_PAGE || length < MMIOD_SHARED_PAGE ||
        grant->value > length - MMIOD_SHARED_PAGE)
        return NULL;
    return fixtures->shared->memory + grant->value;
}

/* Whether a GRANT has what its kind needs. */
static inline int mmiod_fixture_whole(const struct mmiod_fixture *fixture)
{
    switch (fixture->grant.number ? fixture->grant.kind : -1) {
    case MMIOD_GRANT_KIND_PAGE:
        return fixture->page != NULL;
    case MMIOD_GRANT_KIND_DOORBELL:
        return fixture->doorbell >= 0;
    default:
        return 0;
    }
}

/*
 * Puts up what `grant` allows; `descriptor` came with it, and is not the caller's any more.  What
 * was rung on an earlier connection, or before a RESTORE, may be lost: a later doorbell is signalled.
 */
static inline int mmiod_fixture_put(struct mmiod_fixtures *fixtures, const struct mmiod_msg_grant *grant,
                                    int descriptor)
{
    struct mmiod_fixture *fixture = mmiod_fixture_of(fixtures, 0);
    struct mmiod_fixture one = {*grant, mmiod_granted_page(fixtures, grant), descriptor};
    int whole = mmiod_fixture_whole(&one);

    if (!fixture || !whole) {
        mmiod_fixture_forget(&one);
        return whole ? 0 : -EPROTO;
    }
    *fixture = one;
    if (mmiod_fixture_change(fixtures, fixture, 1))
        mmiod_fixture_forget(fixture);
    else if (!one.page && fixtures->again)
        eventfd_write(descriptor, 1);
    return 0;
}

/* Takes one down; one that was left unused is not there. */
static inline void mmiod_fixture_take(struct mmiod_fixtures *fixtures, uint32_t number)
{
    struct mmiod_fixture *fixture = number ? mmiod_fixture_of(fixtures, number) : NULL;

    if (!fixture)
        return;
    mmiod_fixture_change(fixtures, fixture, 0);
    mmiod_fixture_forget(fixture);
}

/* The connection has ended, or is another daemon's: takes all down. */
static inline void mmiod_fixtures_clear(struct mmiod_fixtures *fixtures)
{
    uint32_t place;

    for (place = 0; place < MMIOD_FIXTURES; place++)
        mmiod_fixture_take(fixtures, fixtures->places[place].grant.number);
    fixtures->again |= fixtures->shared != NULL;
}

/* Signals all doorbells that stand, and from now on each that comes. */
static inline void mmiod_fixtures_ring(struct mmiod_fixtures *fixtures)
{
    uint32_t place;

    fixtures->again = 1;
    for (place = 0; place < MMIOD_FIXTURES; place++)
        if (fixtures->places[place].grant.number && !fixtures->places[place].page)
            eventfd_write(fixtures->places[place].doorbell, 1);
}

#endif /* MMIOD_EXIT_LAYOUT_ONLY */

/*
 * A client of the protocol, for one connection and the exits of one vCPU.
 *
 *     static struct mmiod_client client;
 *     uint64_t status;
 *
 *     mmiod_client_init(&client, "/run/mmiod/vm0.exit", "vm0");
 *     client.hello.required = MMIOD_CAPABILITY_INTR;
 *     mmiod_open(&client);
 *     mmiod_map(&client, 0, 0, ram_size, ram_memfd, 0, 0);
 *     mmiod_write(&client, MMIOD_SPACE_PIO, 0x3f8, 1, 'A');
 *     mmiod_read(&client, MMIOD_SPACE_PIO, 0x3fd, 1, &status);
 *
 * Everything waits, in one thread.  A VM of several vCPUs has a client for each: the first
 * one opens the session, the others begin with mmiod_client_join.
 *
 * Functions return 0 or more, or a negative errno:
 *     -EREMOTEIO   the daemon answered ERROR; it is in `error`
 *     -EBUSY       an exit is outstanding; from mmiod_open: the VM has another client
 *     -ENXIO       nobody claims the address, and its range says `forward`
 *     -EAGAIN      a reset ended the exit; from mmiod_poll never
 *     -ECANCELED   `event` said so; the exit that was waited for is still outstanding
 *     -ECONNRESET  the connection is gone (with patience_ms the client reconnects instead)
 *     -ESTALE      the session is over: the devices were reset; from mmiod_open perhaps the VM's name is
 *                  not the socket's (`error` has the field)
 *     -EPROTO      the daemon broke the protocol
 * and what socket calls give.
 *
 * Where there is no libc, define MMIOD_EXIT_LAYOUT_ONLY before the #include.
 */
#ifndef MMIOD_EXIT_LAYOUT_ONLY

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MMIOD_CLIENT_RETRY_MS 50 /* between two attempts to connect */
#define MMIOD_CLIENT_POSTED 64   /* posted writes that are kept until they are acknowledged */
#define MMIOD_MACHINE 0xffffffffu /* every vCPU and all devices: see mmiod_reset */

struct mmiod_client {
    /* The caller's, to be set between mmiod_client_init and mmiod_open. */
    const char *path;
    struct mmiod_msg_hello hello;
    uint32_t vcpu;                       /* the one whose exits go this way */
    int patience_ms;                     /* how long to look for a daemon that is not there */
    uint32_t spin;                       /* looks at the slot before sleeping; 0 where CPUs are few */
    void *context;                       /* for `event` */
    /*
     * What the daemon says unasked: INTR, SET_LEVEL, MSI, REQUEST, CLAIMS; and WELCOME, each
     * time that a connection is open (`socket` is new then).  Anything but 0 ends a wait
     * for a completion with -ECANCELED.  It is called while the client waits, and must
     * not use the client itself.
     */
    int (*event)(void *context, const union mmiod_message *message);

    /* The caller's at any time. */
    uint64_t guest_ns;                   /* goes into each exit, with capability GUEST_TIME; else 0 */
    struct mmiod_view *view;             /* see mmiod_load; NULL: all goes by message */
    struct mmiod_fixtures *fixtures;     /* what stands; NULL: grants are left unused */

    /* For the caller to read. */
    int socket;                          /* -1: none */
    int descriptor;                      /* that came with `in`, else -1; closed by the next receive */
    uint32_t interrupt;                  /* the interrupt request of this vCPU, as far as is known */
    struct mmiod_completion completion;  /* of the last exit */
    struct mmiod_msg_welcome welcome;
    struct mmiod_msg_error error;        /* texts fill their fields: print by %.40s and %.120s */
    union mmiod_message in;              /* the last message */

    /* The client's own: numbers, and what the daemon may have to be told again. */
    uint32_t times_opened;               /* connections and take-overs: a request is sent to each */
    uint32_t serial;
    int pending;                         /* `out` is outstanding */
    uint64_t sequence;                   /* of the last exit */
    uint64_t dropped;                    /* the last exit that a reset may have ended */
    uint64_t posted;                     /* of the last posted write */
    union mmiod_message out;             /* the last exit, as it was sent */
    struct mmiod_shared *shared;         /* NULL: everything goes by message */
    int in_slot;                         /* `out` is outstanding in the slot */
    pid_t heard;                         /* who put `socket` into the ear of the slot; 0: nobody */
    uint32_t share;                      /* shared->shares when the slot was last answered */
    uint32_t lost;                       /* the same when this connection was lost: newer ones can be used */
    struct mmiod_msg_posted unacknowledged[MMIOD_CLIENT_POSTED];
};

/* --- datagrams ----------------------------------------------------------------------- */

/* Ends the connection, and all that was granted on it. */
static inline void mmiod_close(struct mmiod_client *client)
{
    if (client->fixtures)
        mmiod_fixtures_clear(client->fixtures);
    if (client->heard == getpid()) /* closing would do, but for a copy that a fork has: that has the ear, too */
        epoll_ctl(client->shared->descriptors[2 + client->vcpu], EPOLL_CTL_DEL, client->socket, NULL);
    client->heard = 0;
    if (client->socket >= 0)
        close(client->socket);
    if (client->descriptor >= 0)
        close(client->descriptor);
    client->socket = client->descriptor = -1;
}

/*
 * Sends a message with `count` descriptors.  A connection that is gone is no error yet: the
 * daemon's last words are still to be read, and the receive tells the end.
 */
static inline int mmiod_send_with(struct mmiod_client *client, void *bytes, const int *descriptors,
                                  size_t count)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE((2 + MMIOD_SHARED_SLOTS) * sizeof(int))];
    } control;
    struct iovec part;
    struct msghdr message;

    memset(&control, 0, sizeof(control));
    memset(&message, 0, sizeof(message));
    part.iov_base = bytes;
    part.iov_len = ((struct mmiod_header *)bytes)->size;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (count > 0) {
        control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.head), descriptors, count * sizeof(int));
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    }
    while (client->socket >= 0 && sendmsg(client->socket, &message, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return errno == EPIPE || errno == ECONNRESET ? 0 : -errno;
    return 0;
}

/* The same with one descriptor, unless that is -1. */
static inline int mmiod_send(struct mmiod_client *client, void *bytes, int descriptor)
{
    return mmiod_send_with(client, bytes, &descriptor, descriptor >= 0);
}

/* Keeps one descriptor that came with a message, and closes those that nobody expects. */
static inline void mmiod_keep_descriptor(struct mmiod_client *client, struct msghdr *message)
{
    struct cmsghdr *head;

    for (head = CMSG_FIRSTHDR(message); head; head = CMSG_NXTHDR(message, head)) {
        size_t at = CMSG_LEN(0);
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        for (; at + sizeof(int) <= head->cmsg_len; at += sizeof(int)) {
            int descriptor;
            memcpy(&descriptor, (uint8_t *)head + at, sizeof(int));
            if (client->descriptor < 0)
                client->descriptor = descriptor;
            else
                close(descriptor);
        }
    }
}

/*
 * Receives one message into `in`: its type, or -ECONNRESET at the end.  When the daemon
 * dies with messages of ours unread, the first receive fails, and what it sent before
 * comes after that; hence `once_more`.
 */
static inline int mmiod_take(struct mmiod_client *client, int flags)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part;
    struct msghdr message;
    ssize_t size;
    int once_more = 1;

    if (client->socket < 0)
        return -ECONNRESET;
    if (client->descriptor >= 0)
        close(client->descriptor);
    client->descriptor = -1;
    part.iov_base = &client->in;
    part.iov_len = sizeof(client->in);
    do {
        memset(&message, 0, sizeof(message));
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = &control;
        message.msg_controllen = sizeof(control.room);
        size = recvmsg(client->socket, &message, flags | MSG_CMSG_CLOEXEC);
    } while (size < 0 && (errno == EINTR || (errno == ECONNRESET && once_more--)));
    if (size < 0)
        return -errno;
    if (size == 0)
        return -ECONNRESET;
    mmiod_keep_descriptor(client, &message);
    if (message.msg_flags & MSG_CTRUNC)
        return -EMFILE;
    if (message.msg_flags & MSG_TRUNC || (size_t)size < sizeof(struct mmiod_header) ||
        client->in.header.size != (size_t)size || !mmiod_message_size(client->in.header.type) ||
        (size_t)size < mmiod_message_size(client->in.header.type))
        return -EPROTO;
    return client->in.header.type;
}

/* --- the connection ------------------------------------------------------------------ */

/* A client of the VM's socket, with HELLO for one 64-bit vCPU and no capabilities. */
static inline void mmiod_client_init(struct mmiod_client *client, const char *path, const char *vm)
{
    size_t length = strlen(vm);

    memset(client, 0, sizeof(*client));
    client->socket = client->descriptor = -1;
    client->path = path;
    client->hello.header.size = sizeof(client->hello);
    client->hello.header.type = MMIOD_MSG_HELLO;
    client->hello.version_min = client->hello.version_max = MMIOD_EXIT_VERSION;
    client->hello.vcpus = 1;
    client->hello.bitness = 64;
    client->hello.physical_bits = 40;
    client->spin = MMIOD_SHARED_SPIN;
    memcpy(client->hello.vm, vm, length < sizeof(client->hello.vm) ? length : sizeof(client->hello.vm));
}

/* A channel for another vCPU of the session that `primary` has open. */
static inline void mmiod_client_join(struct mmiod_client *client, const struct mmiod_client *primary,
                                     uint32_t vcpu)
{
    mmiod_client_init(client, primary->path, "");
    client->hello = primary->hello;
    client->hello.header.flags = MMIOD_HELLO_FLAG_JOIN;
    client->vcpu = vcpu;
    client->patience_ms = primary->patience_ms;
    client->spin = primary->spin;
    client->shared = primary->shared;
    client->share = primary->share;
}

/* Sends again what has no answer: after a reconnect or RESUMED; posted writes also after a pause. */
static inline int mmiod_resend(struct mmiod_client *client)
{
    uint64_t sequence = client->completion.posted;
    int result = 0;

    if (client->in_slot) /* first: what the daemon hears of by message, it must not find there */
        __atomic_store_n(&mmiod_slot(client->shared, client->vcpu)->state, MMIOD_SHARED_STATE_FREE,
                         __ATOMIC_SEQ_CST);
    client->in_slot = 0;
    while (result == 0 && sequence++ < client->posted)
        result = mmiod_send(client, &client->unacknowledged[sequence % MMIOD_CLIENT_POSTED], -1);
    return result == 0 && client->pending ? mmiod_send(client, &client->out, -1) : result;
}

static inline void mmiod_describe_share(const struct mmiod_shared *shared, struct mmiod_msg_share *share)
{
    memset(share, 0, sizeof(*share));
    share->header.size = sizeof(*share);
    share->header.type = MMIOD_MSG_SHARE;
    share->serial = 1;
    share->slots = shared->slots;
    share->length = shared->length;
}

/* A new connection, or a new daemon: slots can be used again when it knows of them. */
static inline int mmiod_share_again(struct mmiod_client *client)
{
    struct mmiod_shared *shared = client->shared;
    struct mmiod_msg_share share;

    if (!shared)
        return 0;
    client->lost = client->share;
    if (client->hello.header.flags & MMIOD_HELLO_FLAG_JOIN ||
        !(client->welcome.capabilities & MMIOD_CAPABILITY_SHARED_MEMORY))
        return 0;
    mmiod_describe_share(shared, &share);
    __atomic_add_fetch(&shared->shares, 1, __ATOMIC_SEQ_CST);
    return mmiod_send_with(client, &share, shared->descriptors, 2 + shared->slots);
}

static inline int mmiod_welcomed(struct mmiod_client *client)
{
    int result;

    client->welcome = client->in.welcome;
    memcpy(client->hello.token, client->welcome.token, sizeof(client->hello.token));
    client->times_opened++;
    if (client->event)
        client->event(client->context, &client->in);
    result = mmiod_resend(client);
    return result < 0 ? result : mmiod_share_again(client);
}

static inline int mmiod_turned_away(struct mmiod_client *client)
{
    client->error = client->in.error;
    switch (client->error.code) {
    case MMIOD_ERROR_BUSY:
        return -EBUSY;
    case MMIOD_ERROR_IDENTITY:
        return -ESTALE;
    default:
        return -EREMOTEIO;
    }
}

static inline int mmiod_connect(struct mmiod_client *client)
{
    struct sockaddr_un address;
    int result;

    mmiod_close(client);
    if (strlen(client->path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memset(&address, 0, sizeof(address));
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, client->path);
    client->socket = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (client->socket < 0 || connect(client->socket, (struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    result = mmiod_send(client, &client->hello, -1);
    if (result == 0)
        result = mmiod_take(client, 0);
    if (result == MMIOD_MSG_WELCOME)
        return mmiod_welcomed(client);
    if (result == MMIOD_MSG_ERROR)
        return mmiod_turned_away(client);
    return result < 0 ? result : -EPROTO;
}

/* Whether a later attempt may succeed.  BUSY: the daemon may not know yet that we were gone. */
static inline int mmiod_passes(int error)
{
    return error == -ENOENT || error == -ECONNREFUSED || error == -ECONNRESET || error == -EAGAIN ||
           error == -EINTR || error == -EBUSY;
}

/*
 * Connects and opens a session; with the token of one, goes on with it and sends again
 * what has no answer.  Tries for patience_ms, at least once.
 */
static inline int mmiod_open(struct mmiod_client *client)
{
    int waited_ms = 0;

    for (;;) {
        int result = mmiod_connect(client);
        if (result == 0)
            return 0;
        mmiod_close(client);
        if (!mmiod_passes(result) || waited_ms >= client->patience_ms)
            return result;
        poll(NULL, 0, MMIOD_CLIENT_RETRY_MS);
        waited_ms += MMIOD_CLIENT_RETRY_MS;
    }
}

/* --- what arrives -------------------------------------------------------------------- */

static inline int mmiod_settle(struct mmiod_client *client, int type)
{
    const struct mmiod_completion *completion = &client->in.retry.completion; /* in all at one place */

    if (completion->vcpu == client->vcpu && completion->sequence <= client->dropped)
        return 0;
    if (completion->vcpu != client->vcpu || completion->sequence != client->sequence || !client->pending)
        return -EPROTO;
    client->completion = *completion;
    client->interrupt = completion->interrupt;
    client->pending = 0;
    return type;
}

/* An exit that was refused was not admitted: its number is free, for a better one. */
static inline int mmiod_refused(struct mmiod_client *client)
{
    int of_posted;

    client->error = client->in.error;
    of_posted = strncmp(client->error.name, "posted.", 7) == 0;
    if (client->pending && client->error.subject == client->sequence && !of_posted) {
        client->pending = 0;
        client->sequence--;
    }
    if (client->error.fatal)
        mmiod_close(client);
    return -EREMOTEIO;
}

/* Puts up what the GRANT in `in` allows; its descriptor is closed by the next receive if nobody takes it. */
static inline int mmiod_granted(struct mmiod_client *client)
{
    int descriptor = client->descriptor;

    if (!client->fixtures)
        return 0;
    client->descriptor = -1;
    return mmiod_fixture_put(client->fixtures, &client->in.grant, descriptor);
}

/* Takes down what the REVOKE in `in` ends, and says so. */
static inline int mmiod_revoke(struct mmiod_client *client)
{
    struct mmiod_msg_revoked revoked;

    memset(&revoked, 0, sizeof(revoked));
    revoked.header.size = sizeof(revoked);
    revoked.header.type = MMIOD_MSG_REVOKED;
    revoked.number = client->in.revoke.number;
    if (client->fixtures)
        mmiod_fixture_take(client->fixtures, revoked.number);
    return mmiod_send(client, &revoked, -1);
}

/* Another daemon has the connection: what is unanswered goes out again, and all grants have ended. */
static inline int mmiod_resumed(struct mmiod_client *client)
{
    int result;

    if (client->fixtures)
        mmiod_fixtures_clear(client->fixtures);
    client->times_opened++;
    result = mmiod_resend(client);
    return result < 0 ? result : mmiod_share_again(client);
}

/* What the message in `in` comes to: the type of an answer, 0 if there is nothing more to do. */
static inline int mmiod_sort(struct mmiod_client *client, int type)
{
    int answer = 0;

    if (type >= MMIOD_MSG_VALUES && type <= MMIOD_MSG_REPLY)
        return mmiod_settle(client, type);
    switch (type) {
    case MMIOD_MSG_ACK:
        return type;
    case MMIOD_MSG_ERROR:
        return mmiod_refused(client);
    case MMIOD_MSG_RESUMED:
        return mmiod_resumed(client);
    case MMIOD_MSG_GRANT:
        return mmiod_granted(client);
    case MMIOD_MSG_REVOKE:
        return mmiod_revoke(client);
    case MMIOD_MSG_INTR:
        if (client->in.intr.vcpu == client->vcpu)
            client->interrupt = client->in.intr.level;
        break;
    case MMIOD_MSG_CLAIMS:
        if (client->in.claims.serial && !client->in.claims.remaining)
            answer = type;
        break;
    case MMIOD_MSG_SET_LEVEL:
    case MMIOD_MSG_MSI:
    case MMIOD_MSG_REQUEST:
        break;
    default:
        return -EPROTO;
    }
    return client->event && client->event(client->context, &client->in) ? -ECANCELED : answer;
}

/* Takes one message, or with `flags` MSG_DONTWAIT perhaps none (-EAGAIN). */
static inline int mmiod_next(struct mmiod_client *client, int flags)
{
    int type = mmiod_take(client, flags);

    if (type == -ECONNRESET && client->patience_ms > 0)
        return mmiod_open(client);
    return type < 0 ? type : mmiod_sort(client, type);
}

/* Takes what has arrived, without waiting: before the guest is entered. */
static inline int mmiod_poll(struct mmiod_client *client)
{
    int result;

    do
        result = mmiod_next(client, MSG_DONTWAIT);
    while (result >= 0);
    return result == -EAGAIN ? 0 : result;
}

/* --- requests: no exit may be outstanding --------------------------------------------- */

/* Devices that were restored may lack what was rung before. */
static inline int mmiod_acknowledged(const struct mmiod_client *client, uint16_t type)
{
    if (type == MMIOD_MSG_RESTORE && client->fixtures)
        mmiod_fixtures_ring(client->fixtures);
    return 0;
}

/*
 * Sends a request, which gets its serial here, and waits for the answer, which is in `in`.
 * After a reconnect or a take-over the request is sent again.
 */
static inline int mmiod_request_with(struct mmiod_client *client, void *request, const int *descriptors,
                                     size_t count)
{
    uint32_t sent_at = client->times_opened - 1;
    int result;

    if (client->pending)
        return -EBUSY;
    client->serial += client->serial == 0xffffffffu ? 2 : 1; /* never 0 */
    ((struct mmiod_msg_reset *)request)->serial = client->serial; /* in all at one place */
    do {
        if (sent_at != client->times_opened) {
            sent_at = client->times_opened;
            result = mmiod_send_with(client, request, descriptors, count);
            if (result < 0)
                return result;
        }
        result = mmiod_next(client, 0);
        if (result > 0 && client->in.ack.serial == client->serial)
            return mmiod_acknowledged(client, ((struct mmiod_header *)request)->type);
    } while (result >= 0 || result == -ECANCELED);
    return result;
}

static inline int mmiod_request(struct mmiod_client *client, void *request, int descriptor)
{
    return mmiod_request_with(client, request, &descriptor, descriptor >= 0);
}

/*
 * Has the exits of all vCPUs go through shared memory: for the primary client, behind mmiod_open
 * with capability SHARED_MEMORY.  `memfd` has 4096 * (1 + hello.vcpus) bytes, zeros, and is sealed
 * with F_SEAL_SHRINK; with MMIOD_PUBLISHED_BYTES more there is room for published registers, and with
 * MMIOD_PAGES_BYTES behind those for pages that are granted.  `shared` lives as long as the clients.
 * Clients that join later use it, too.
 * Where it fails exits go by message as before.
 */
static inline int mmiod_share(struct mmiod_client *client, struct mmiod_shared *shared, int memfd)
{
#ifdef __x86_64__
    struct mmiod_msg_share message;
    int result = mmiod_shared_init(shared, memfd, client->hello.vcpus);

    if (result < 0)
        return result;
    if (client->fixtures)
        client->fixtures->shared = shared;
    mmiod_describe_share(shared, &message);
    result = mmiod_request_with(client, &message, shared->descriptors, 2 + shared->slots);
    if (result < 0) {
        if (client->fixtures)
            client->fixtures->shared = NULL;
        mmiod_shared_close(shared);
        return result;
    }
    client->shared = shared;
    client->share = shared->shares;
    client->heard = 0;
    return 0;
#else
    (void)client, (void)shared, (void)memfd;
    return -ENOSYS;
#endif
}

/* Guest RAM: `length` bytes from `offset` in the descriptor, which stays the caller's. */
static inline int mmiod_map(struct mmiod_client *client, uint32_t slot, uint64_t gpa, uint64_t length,
                            int descriptor, uint64_t offset, uint16_t flags)
{
    struct mmiod_msg_map map;

    memset(&map, 0, sizeof(map));
    map.header.size = sizeof(map);
    map.header.type = MMIOD_MSG_MAP;
    map.header.flags = flags;
    map.slot = slot;
    map.gpa = gpa;
    map.length = length;
    map.offset = offset;
    return mmiod_request(client, &map, flags & MMIOD_MAP_FLAG_NO_DESCRIPTOR ? -1 : descriptor);
}

/* After this the slot's memory may be used for something else. */
static inline int mmiod_unmap(struct mmiod_client *client, uint32_t slot)
{
    struct mmiod_msg_unmap unmap;

    memset(&unmap, 0, sizeof(unmap));
    unmap.header.size = sizeof(unmap);
    unmap.header.type = MMIOD_MSG_UNMAP;
    unmap.slot = slot;
    return mmiod_request(client, &unmap, -1);
}

/* Resets a vCPU's affairs, or those of MMIOD_MACHINE.  An exit that is outstanding ends here. */
static inline int mmiod_reset(struct mmiod_client *client, uint32_t vcpu)
{
    struct mmiod_msg_reset reset;

    memset(&reset, 0, sizeof(reset));
    reset.header.size = sizeof(reset);
    reset.header.type = MMIOD_MSG_RESET;
    reset.vcpu = vcpu;
    if (vcpu == MMIOD_MACHINE || vcpu == client->vcpu) {
        client->pending = client->in_slot = 0;
        client->dropped = client->sequence;
        client->interrupt = 0;
    }
    return mmiod_request(client, &reset, -1);
}

/* --- exits --------------------------------------------------------------------------- */

/* Begins an exit in `out`; NULL while one is outstanding. */
static inline union mmiod_message *mmiod_begin(struct mmiod_client *client, uint16_t type)
{
    if (client->pending)
        return NULL;
    memset(&client->out, 0, mmiod_message_size(type));
    client->out.header.size = mmiod_message_size(type);
    client->out.header.type = type;
    client->out.exit_halt.exit.vcpu = client->vcpu; /* in all exits at one place */
    client->out.exit_halt.exit.guest_ns = client->guest_ns;
    return &client->out;
}

/* Whether the daemon looks at our slot. */
static inline int mmiod_slot_usable(const struct mmiod_client *client)
{
    return client->shared && client->socket >= 0 &&
           __atomic_load_n(&client->shared->shares, __ATOMIC_RELAXED) != client->lost;
}

static inline int mmiod_slot_fits(const struct mmiod_client *client)
{
    return client->out.header.size <= sizeof(((struct mmiod_shared_slot *)NULL)->exit);
}

/* Takes the completion out of the slot. */
static inline int mmiod_slot_take(struct mmiod_client *client)
{
    struct mmiod_shared_slot *slot = mmiod_slot(client->shared, client->vcpu);
    const struct mmiod_header *header = (const struct mmiod_header *)(const void *)slot->completion;
    uint32_t size = header->size;

    client->in_slot = 0;
    client->share = client->shared->shares;
    if (size < sizeof(*header) || size > sizeof(slot->completion))
        return -EPROTO;
    memcpy(&client->in, slot->completion, size);
    __atomic_store_n(&slot->state, MMIOD_SHARED_STATE_FREE, __ATOMIC_RELEASE);
    if (!mmiod_message_size(client->in.header.type) || size < mmiod_message_size(client->in.header.type))
        return -EPROTO;
    return mmiod_settle(client, client->in.header.type);
}

/* Waits for what is outstanding in the slot, or for a message: the completion's type, 0, or an error. */
static inline int mmiod_slot_next(struct mmiod_client *client)
{
    struct mmiod_shared *shared = client->shared;
    uint32_t state = mmiod_slot_spin(shared, client->vcpu, client->spin);
    int result;

    if (state == MMIOD_SHARED_STATE_READY && client->socket < 0)
        return mmiod_next(client, 0); /* nobody looks there any more */
    if (state == MMIOD_SHARED_STATE_READY && !client->heard) {
        result = mmiod_slot_hear(shared, client->vcpu, client->socket);
        if (result < 0)
            return result;
        client->heard = getpid();
    }
    if (state == MMIOD_SHARED_STATE_READY)
        state = mmiod_slot_wait(shared, client->vcpu);
    switch (state) {
    case MMIOD_SHARED_STATE_COMPLETE:
        return mmiod_slot_take(client);
    case MMIOD_SHARED_STATE_READY:
        result = mmiod_next(client, MSG_DONTWAIT);
        return result == -EAGAIN ? 0 : result;
    default:
        client->in_slot = 0;
        __atomic_store_n(&mmiod_slot(shared, client->vcpu)->state, MMIOD_SHARED_STATE_FREE, __ATOMIC_SEQ_CST);
        return mmiod_send(client, &client->out, -1);
    }
}

/* Waits for the completion of the exit that is outstanding: its type; it is in `in`. */
static inline int mmiod_complete(struct mmiod_client *client)
{
    int result = -EINVAL;

    while (client->pending) {
        result = client->in_slot ? mmiod_slot_next(client) : mmiod_next(client, 0);
        if (result < 0)
            return result;
    }
    return result;
}

/* Sends the exit in `out` under the next number and waits for its completion. */
static inline int mmiod_exchange(struct mmiod_client *client)
{
    int result;

    if (client->pending)
        return -EBUSY;
    client->out.exit_halt.exit.sequence = ++client->sequence;
    client->pending = 1;
    if (mmiod_slot_usable(client) && mmiod_slot_fits(client)) {
        client->in_slot = 1;
        mmiod_slot_post(client->shared, client->vcpu, &client->out, client->out.header.size);
        return mmiod_complete(client);
    }
    result = mmiod_send(client, &client->out, -1);
    return result < 0 ? result : mmiod_complete(client);
}

/* 0 for VALUES; what other completions mean to an exit that is answered by them. */
static inline int mmiod_answered(int result)
{
    switch (result) {
    case MMIOD_MSG_VALUES:
        return 0;
    case MMIOD_MSG_FORWARD:
        return -ENXIO;
    case MMIOD_MSG_RETRY:
        return -EAGAIN;
    default:
        return result < 0 ? result : -EPROTO;
    }
}

/* Takes `length` bytes of elements out of VALUES. */
static inline int mmiod_elements(struct mmiod_client *client, void *data, size_t length)
{
    const struct mmiod_msg_values *values = &client->in.values;

    if (values->length != length || values->header.size != sizeof(*values) + (length > 8 ? length : 0))
        return -EPROTO;
    if (length > 8)
        memcpy(data, client->in.bytes + sizeof(*values), length);
    else if (length > 0)
        memcpy(data, &values->value, length);
    return 0;
}

/*
 * One access, or a string of `count` (see EXIT_DECODED for `stride`): `data` has
 * count * size bytes, which a read fills.
 */
static inline int mmiod_access(struct mmiod_client *client, uint8_t space, uint8_t direction,
                               uint64_t address, uint16_t size, uint32_t count, int32_t stride, void *data)
{
    uint64_t length = (uint64_t)size * count;
    union mmiod_message *out;
    int result;

    if (length > MMIOD_EXIT_MAX_MESSAGE - sizeof(out->exit_decoded))
        return -EMSGSIZE;
    out = mmiod_begin(client, MMIOD_MSG_EXIT_DECODED);
    if (!out)
        return -EBUSY;
    out->exit_decoded.address = address;
    out->exit_decoded.space = space;
    out->exit_decoded.direction = direction;
    out->exit_decoded.size = size;
    out->exit_decoded.count = count;
    out->exit_decoded.stride = stride;
    if (direction == MMIOD_DIRECTION_WRITE && length > 8) {
        memcpy(out->bytes + sizeof(out->exit_decoded), data, (size_t)length);
        out->header.size += (uint32_t)length;
    } else if (direction == MMIOD_DIRECTION_WRITE) {
        memcpy(&out->exit_decoded.value, data, (size_t)length);
    }
    result = mmiod_answered(mmiod_exchange(client));
    if (result < 0)
        return result;
    return mmiod_elements(client, data, direction == MMIOD_DIRECTION_READ ? (size_t)length : 0);
}

/* Reads 1, 2, 4 or 8 bytes. */
static inline int mmiod_read(struct mmiod_client *client, uint8_t space, uint64_t address, uint16_t size,
                             uint64_t *value)
{
    *value = 0;
    return size > 8 ? -EINVAL : mmiod_access(client, space, MMIOD_DIRECTION_READ, address, size, 1, 0, value);
}

/* Writes 1, 2, 4 or 8 bytes: the low ones of `value`. */
static inline int mmiod_write(struct mmiod_client *client, uint8_t space, uint64_t address, uint16_t size,
                              uint64_t value)
{
    return size > 8 ? -EINVAL : mmiod_access(client, space, MMIOD_DIRECTION_WRITE, address, size, 1, 0, &value);
}

static inline int mmiod_signal(struct mmiod_client *client, uint16_t type)
{
    return mmiod_begin(client, type) ? mmiod_answered(mmiod_exchange(client)) : -EBUSY;
}

/* HLT with interrupts enabled: returns when an interrupt is pending. */
static inline int mmiod_halt(struct mmiod_client *client)
{
    return mmiod_signal(client, MMIOD_MSG_EXIT_HALT);
}

/* Lets due timers run; has posted writes acknowledged; tells `interrupt` as it is now. */
static inline int mmiod_tick(struct mmiod_client *client)
{
    return mmiod_signal(client, MMIOD_MSG_EXIT_TICK);
}

/* Acknowledges the interrupt that is pending: its vector.  Deliver it now. */
static inline int mmiod_inta(struct mmiod_client *client)
{
    int result = mmiod_signal(client, MMIOD_MSG_EXIT_INTA);

    return result < 0 ? result : (int)(client->in.values.value & 0xff);
}

/* Puts a posted write into the vCPU's ring: there it is found by number, however it is sent. */
static inline void mmiod_slot_keep(struct mmiod_client *client, const struct mmiod_msg_posted *posted)
{
    struct mmiod_shared_slot *slot = mmiod_slot(client->shared, client->vcpu);
    struct mmiod_shared_posted *entry = &slot->ring[posted->exit.sequence % MMIOD_SHARED_RING];

    entry->address = posted->address;
    entry->value = posted->value;
    entry->space = posted->space;
    entry->size = posted->size;
    entry->guest_ns = posted->exit.guest_ns;
}

/* Learns which posted writes were applied; whether there is room for another one. */
static inline int mmiod_post_fits(struct mmiod_client *client)
{
    if (client->posted - client->completion.posted < MMIOD_CLIENT_POSTED)
        return 1;
    if (client->shared) {
        const struct mmiod_shared_slot *slot = mmiod_slot(client->shared, client->vcpu);
        uint64_t applied = __atomic_load_n(&slot->applied, __ATOMIC_ACQUIRE);
        if (applied > client->completion.posted && applied <= client->posted)
            client->completion.posted = applied;
    }
    return client->posted - client->completion.posted < MMIOD_CLIENT_POSTED;
}

/* Writes 1, 2, 4 or 8 bytes, and nobody waits for it. */
static inline int mmiod_post(struct mmiod_client *client, uint8_t space, uint64_t address, uint16_t size,
                             uint64_t value)
{
    struct mmiod_msg_posted *posted;

    if (client->pending)
        return -EBUSY;
    if (!mmiod_post_fits(client)) {
        int result = mmiod_tick(client);
        if (result < 0)
            return result;
    }
    posted = &client->unacknowledged[++client->posted % MMIOD_CLIENT_POSTED];
    memset(posted, 0, sizeof(*posted));
    posted->header.size = sizeof(*posted);
    posted->header.type = MMIOD_MSG_POSTED;
    posted->exit.vcpu = client->vcpu;
    posted->exit.sequence = client->posted;
    posted->exit.guest_ns = client->guest_ns;
    posted->address = address;
    posted->value = value;
    posted->space = space;
    posted->size = size;
    if (client->shared)
        mmiod_slot_keep(client, posted);
    if (!mmiod_slot_usable(client))
        return mmiod_send(client, posted, -1);
    __atomic_store_n(&mmiod_slot(client->shared, client->vcpu)->posted, client->posted, __ATOMIC_RELEASE);
    mmiod_slot_ring(client->shared, client->vcpu);
    return 0;
}

/* --- raw exits ----------------------------------------------------------------------- */

/*
 * Begins a raw exit of an instruction of which `length` bytes are known; NULL while one is
 * outstanding.  Set what else is known (gpa, gva, intent and their flags), then call
 * mmiod_exchange.  When that gives NEED_*, add to `out` what is asked for and call it again.
 */
static inline struct mmiod_msg_exit_raw *mmiod_raw(struct mmiod_client *client, const struct mmiod_vcpu *vcpu,
                                                   const void *code, size_t length)
{
    union mmiod_message *out = mmiod_begin(client, MMIOD_MSG_EXIT_RAW);

    if (!out)
        return NULL;
    out->exit_raw.vcpu = *vcpu;
    out->exit_raw.cpl = vcpu->segments[2].attributes >> 5 & 3; /* DPL of SS */
    out->exit_raw.code_length = length < 15 ? (uint8_t)length : 15;
    memcpy(out->exit_raw.code, code, out->exit_raw.code_length);
    return &out->exit_raw;
}

/*
 * Writes registers back as DONE says, or FAULT, whose delta and CR2 belong to the exception
 * that is for the caller to raise.  Memory is in the supplements.
 */
static inline void mmiod_apply(struct mmiod_vcpu *vcpu, const union mmiod_message *message)
{
    const struct mmiod_msg_done *done = &message->done; /* FAULT begins like it */
    int fault = message->header.type == MMIOD_MSG_FAULT;
    unsigned int n;

    if (fault && message->header.flags & MMIOD_FAULT_FLAG_CR2)
        vcpu->cr2 = message->fault.cr2;
    if (message->header.type != MMIOD_MSG_DONE && !(fault && message->header.flags & MMIOD_FAULT_FLAG_DELTA))
        return;
    for (n = 0; n < 16; n++)
        if (done->changed >> n & 1)
            vcpu->gpr[n] = done->gpr[n];
    vcpu->rip = done->rip;
    vcpu->rflags = done->rflags;
}

/* The supplement of DONE, FAULT or REPLY that follows `last`, or with NULL the first; NULL at the end. */
static inline const struct mmiod_supplement *mmiod_supplement_after(const union mmiod_message *message,
                                                                    const struct mmiod_supplement *last)
{
    const struct mmiod_supplement *item;
    size_t at = mmiod_message_size(message->header.type);

    if (message->header.type == MMIOD_MSG_REPLY)
        at += (message->reply.length + (size_t)7) & ~(size_t)7;
    if (last)
        at = (size_t)((const uint8_t *)last - message->bytes) + ((last->length + 7u) & ~(size_t)7);
    if (at + sizeof(*item) > message->header.size)
        return NULL;
    item = (const struct mmiod_supplement *)(const void *)(message->bytes + at);
    return item->length >= sizeof(*item) && item->length <= message->header.size - at ? item : NULL;
}

/*
 * Adds a supplement to the raw exit, or a source's, in `out`: `body` is one of struct mmiod_supplement_*,
 * `bytes` what follows it.
 */
static inline int mmiod_supply(struct mmiod_client *client, uint16_t kind, const void *body, size_t body_size,
                               const void *bytes, size_t length)
{
    struct mmiod_supplement head;
    size_t at = client->out.header.size;
    size_t size = sizeof(head) + body_size + length;
    size_t padded = (size + 7) & ~(size_t)7;

    if (client->pending)
        return -EBUSY;
    if (length > sizeof(client->out) || padded > sizeof(client->out) - at)
        return -EMSGSIZE;
    memset(&head, 0, sizeof(head));
    head.kind = kind;
    head.length = (uint32_t)size;
    memset(client->out.bytes + at, 0, padded);
    memcpy(client->out.bytes + at, &head, sizeof(head));
    memcpy(client->out.bytes + at + sizeof(head), body, body_size);
    if (length > 0)
        memcpy(client->out.bytes + at + sizeof(head) + body_size, bytes, length);
    client->out.header.size += (uint32_t)padded;
    return 0;
}

/* --- vector registers: an XSAVE area in the standard format (SDM vol. 1, 13.4) --------- */

/* Offsets that CPUID leaf 0DH tells, sub-leaves 2, 5, 6 and 7, in EBX; 0 for what the vCPU has not. */
struct mmiod_xsave {
    uint32_t avx;
    uint32_t opmask;
    uint32_t zmm_hi256;
    uint32_t hi16_zmm;
};

/* Registers that no XSAVE area has, for NEED_REGISTERS: IA32_PASID and DR0-3. */
struct mmiod_others {
    uint64_t pasid;
    uint64_t dr[4];
};

/* Component `bit` of `area`, made zeros if XSTATE_BV says that it is in its initial configuration. */
static inline uint8_t *mmiod_component(uint8_t *area, unsigned int bit, uint32_t offset, uint32_t size)
{
    uint64_t present;

    memcpy(&present, area + 512, sizeof(present));
    if (!(present >> bit & 1)) {
        memset(area + offset, 0, size);
        present |= (uint64_t)1 << bit;
        memcpy(area + 512, &present, sizeof(present));
    }
    return area + offset;
}

/* The part of component 0 that lies before MXCSR, with FCW 037FH if it is in its initial configuration. */
static inline uint8_t *mmiod_x87(uint8_t *area)
{
    if (!(area[512] & 1)) {
        memset(area + 32, 0, 128);
        mmiod_component(area, 0, 0, 24)[0] = 0x7f;
        area[1] = 3;
    }
    return area;
}

/*
 * Answers NEED_REGISTERS: supplies the sets that `in` asks for, from `area`, where components in
 * their initial configuration are filled in, and from `others`.  For KVM: KVM_GET_XSAVE and
 * KVM_GET_DEBUGREGS, this, and after DONE mmiod_apply_registers and KVM_SET_XSAVE.
 */
static inline int mmiod_supply_registers(struct mmiod_client *client, uint8_t *area,
                                         const struct mmiod_xsave *at, const struct mmiod_others *others)
{
    struct mmiod_supplement_registers head = {client->in.need_registers.registers, 0};
    uint8_t bytes[160 + 256 + 256 + 1600 + sizeof(*others)];
    size_t length = 0;

    memset(bytes, 0, sizeof(bytes));
    if (head.registers & MMIOD_REGISTER_SET_X87) {
        memcpy(bytes, mmiod_x87(area), 160);
        length += 160;
    }
    if (head.registers & MMIOD_REGISTER_SET_SSE) {
        memcpy(bytes + length, mmiod_component(area, 1, 160, 256), 256);
        length += 256;
    }
    if (head.registers & MMIOD_REGISTER_SET_AVX) {
        if (at->avx)
            memcpy(bytes + length, mmiod_component(area, 2, at->avx, 256), 256);
        length += 256;
    }
    if (head.registers & MMIOD_REGISTER_SET_AVX512) {
        if (at->hi16_zmm) {
            memcpy(bytes + length, mmiod_component(area, 5, at->opmask, 64), 64);
            memcpy(bytes + length + 64, mmiod_component(area, 6, at->zmm_hi256, 512), 512);
            memcpy(bytes + length + 576, mmiod_component(area, 7, at->hi16_zmm, 1024), 1024);
        }
        length += 1600;
    }
    if (head.registers & MMIOD_REGISTER_SET_PASID) {
        memcpy(bytes + length, &others->pasid, sizeof(others->pasid));
        length += sizeof(others->pasid);
    }
    if (head.registers & MMIOD_REGISTER_SET_DEBUG) {
        memcpy(bytes + length, others->dr, sizeof(others->dr));
        length += sizeof(others->dr);
    }
    return mmiod_supply(client, MMIOD_SUPPLEMENT_KIND_REGISTERS, &head, sizeof(head), bytes, length);
}

/* Writes `size` bytes of zmm `number`: 16, the rest stays, or 64. */
static inline void mmiod_put_vector(uint8_t *area, const struct mmiod_xsave *at, uint16_t number,
                                    const uint8_t *data, size_t size)
{
    if (number >= 16) {
        if (at->hi16_zmm)
            memcpy(mmiod_component(area, 7, at->hi16_zmm, 1024) + 64 * (number - 16), data, size);
        return;
    }
    memcpy(mmiod_component(area, 1, 160, 256) + 16 * number, data, 16);
    if (size == 64 && at->avx)
        memcpy(mmiod_component(area, 2, at->avx, 256) + 16 * number, data + 16, 16);
    if (size == 64 && at->zmm_hi256)
        memcpy(mmiod_component(area, 6, at->zmm_hi256, 512) + 32 * number, data + 32, 32);
}

/* Writes the vector registers that DONE changed to `area`; the rest of DONE is for mmiod_apply. */
static inline void mmiod_apply_registers(uint8_t *area, const struct mmiod_xsave *at,
                                         const union mmiod_message *message)
{
    const struct mmiod_supplement *item = NULL;

    while ((item = mmiod_supplement_after(message, item))) {
        const struct mmiod_supplement_vector *vector = (const struct mmiod_supplement_vector *)(item + 1);
        const uint8_t *data = (const uint8_t *)(vector + 1);

        if (item->kind != MMIOD_SUPPLEMENT_KIND_VECTOR)
            continue;
        if (vector->file == MMIOD_REGISTER_FILE_XMM || vector->file == MMIOD_REGISTER_FILE_ZMM)
            mmiod_put_vector(area, at, vector->number, data, item->length - sizeof(*item) - sizeof(*vector));
        if (vector->file == MMIOD_REGISTER_FILE_K && at->opmask)
            memcpy(mmiod_component(area, 5, at->opmask, 64) + 8 * vector->number, data, 8);
        if (vector->file == MMIOD_REGISTER_FILE_FX) {
            memcpy(mmiod_x87(area), data, 24);
            memcpy(area + 32, data + 32, 128);
        }
    }
}

/* --- exits of a source: hello.source says whose structures they are ------------------- */

/*
 * Begins an exit with such a structure; then call mmiod_exchange.  When that gives NEED_*,
 * add what is asked for with mmiod_supply and call it again.
 */
static inline int mmiod_source(struct mmiod_client *client, const void *body, size_t length)
{
    union mmiod_message *out = mmiod_begin(client, MMIOD_MSG_EXIT_SOURCE);
    size_t padded = (length + 7) & ~(size_t)7;

    if (!out)
        return -EBUSY;
    if (length > sizeof(*out) || padded > sizeof(*out) - sizeof(out->exit_source))
        return -EMSGSIZE;
    out->exit_source.length = (uint32_t)length;
    memset(out->bytes + sizeof(out->exit_source), 0, padded);
    memcpy(out->bytes + sizeof(out->exit_source), body, length);
    out->header.size += (uint32_t)padded;
    return 0;
}

/* Takes the structure out of REPLY: -EPROTO if `in` is another completion. */
static inline int mmiod_reply(const struct mmiod_client *client, void *body, size_t length)
{
    const struct mmiod_msg_reply *reply = &client->in.reply;

    if (reply->header.type != MMIOD_MSG_REPLY || reply->length != length ||
        reply->header.size < sizeof(*reply) + length)
        return -EPROTO;
    memcpy(body, client->in.bytes + sizeof(*reply), length);
    return 0;
}

#endif /* MMIOD_EXIT_LAYOUT_ONLY */

/*
 * Registers that need no message (docs/protocol.md, "Published registers"):
 *
 *     static struct mmiod_view view;       // one for each vCPU
 *
 *     client.hello.required = MMIOD_CAPABILITY_SHARED_MEMORY | MMIOD_CAPABILITY_PUBLISHED;
 *     mmiod_share(&client, &shared, memfd);        // of MMIOD_PUBLISHED_BYTES more
 *     client.view = &view;
 *     mmiod_store(&client, MMIOD_SPACE_PIO, 0x3f8, 1, 'A');
 *     mmiod_load(&client, MMIOD_SPACE_PIO, 0x3fd, 1, &status);
 *
 * mmiod_load and mmiod_store send a message where one is needed, and keep the order that the vCPU's
 * program has: a published read waits for the posted writes that may change it, of any vCPU.
 */
#ifndef MMIOD_EXIT_LAYOUT_ONLY

#include <time.h>

#define MMIOD_PUBLISHED_BYTES 262144u /* room for 4095 rows */
#define MMIOD_VIEW_PLACES 8192u       /* a power of two, and more than there are rows */
#define MMIOD_VIEW_SPANS 64u

struct mmiod_view_span {
    uint64_t first;
    uint64_t last;
    uint8_t space;
    uint16_t row;
};

struct mmiod_view {
    uint64_t generation;                            /* of the table that the rest is about */
    struct mmiod_view_span spans[MMIOD_VIEW_SPANS]; /* and windows */
    uint32_t span_count;
    uint16_t places[MMIOD_VIEW_PLACES]; /* rows plus 1, by mmiod_view_place of their address; 0: none */
    /* For the caller to read. */
    uint64_t loads;                   /* that needed no message */
    uint64_t posts;
    uint64_t waits;                   /* for posted writes, before one of both */
};

static inline const struct mmiod_published_row *mmiod_rows(const struct mmiod_shared *shared)
{
    return (const struct mmiod_published_row *)(const void *)(mmiod_published(shared) +
                                                              sizeof(struct mmiod_published_header));
}

static inline uint64_t mmiod_generation(const struct mmiod_shared *shared)
{
    const struct mmiod_published_header *header;

    header = (const struct mmiod_published_header *)(const void *)mmiod_published(shared);
    return __atomic_load_n(&header->generation, __ATOMIC_ACQUIRE);
}

static inline uint32_t mmiod_view_place(uint8_t space, uint8_t kind, uint64_t address)
{
    uint64_t key = address ^ (uint64_t)space << 61 ^ (uint64_t)kind << 57;

    return (uint32_t)(key * 0x9e3779b97f4a7c15u >> 51) & (MMIOD_VIEW_PLACES - 1);
}

/* Makes the view one of the present table; whether there is one. */
static inline int mmiod_view_build(struct mmiod_view *view, const struct mmiod_shared *shared)
{
    const struct mmiod_published_header *header;
    const struct mmiod_published_row *rows = mmiod_rows(shared);
    uint64_t generation = mmiod_generation(shared);
    uint64_t count, row;

    header = (const struct mmiod_published_header *)(const void *)mmiod_published(shared);
    count = header->rows < MMIOD_VIEW_PLACES / 2 ? header->rows : MMIOD_VIEW_PLACES / 2 - 1;
    memset(view->places, 0, sizeof(view->places));
    view->span_count = 0;
    for (row = 0; row < count; row++) {
        uint32_t place = mmiod_view_place(rows[row].space, rows[row].kind, rows[row].address);
        if (rows[row].kind == MMIOD_PUBLISHED_KIND_DEVICE)
            continue;
        if (rows[row].kind >= MMIOD_PUBLISHED_KIND_SPAN) {
            if (view->span_count < MMIOD_VIEW_SPANS) {
                struct mmiod_view_span *span = &view->spans[view->span_count++];
                span->first = rows[row].address;
                span->last = rows[row].address + (rows[row].since - 1);
                span->space = rows[row].space;
                span->row = (uint16_t)row;
            }
            continue;
        }
        while (view->places[place])
            place = (place + 1) & (MMIOD_VIEW_PLACES - 1);
        view->places[place] = (uint16_t)(row + 1);
    }
    view->generation = generation;
    return !(generation & 1) && generation == mmiod_generation(shared);
}

/* Whether there is a table, and the view is one of it. */
static inline int mmiod_view_ready(struct mmiod_client *client)
{
    uint64_t generation;

    if (!client->view || !mmiod_slot_usable(client) || !mmiod_published(client->shared))
        return 0;
    generation = mmiod_generation(client->shared);
    return !(generation & 1) &&
           (generation == client->view->generation || mmiod_view_build(client->view, client->shared));
}

/* What a row allows now; 0 also while its device is withdrawn.  `gate` gets its device's policy. */
static inline uint64_t mmiod_row_policy(const struct mmiod_published_row *rows,
                                        const struct mmiod_published_row *row, uint64_t *gate)
{
    *gate = __atomic_load_n(&rows[row->device % MMIOD_VIEW_PLACES].policy, __ATOMIC_ACQUIRE);
    return *gate & MMIOD_PUBLISHED_POLICY_OPEN ? __atomic_load_n(&row->policy, __ATOMIC_ACQUIRE) : 0;
}

/* Whether it still is what it was: what was read in between is true. */
static inline int mmiod_row_stands(const struct mmiod_client *client, const struct mmiod_published_row *row,
                                   uint64_t policy, uint64_t gate)
{
    const struct mmiod_published_row *rows = mmiod_rows(client->shared);

    return __atomic_load_n(&row->policy, __ATOMIC_ACQUIRE) == policy &&
           __atomic_load_n(&rows[row->device % MMIOD_VIEW_PLACES].policy, __ATOMIC_ACQUIRE) == gate &&
           mmiod_generation(client->shared) == client->view->generation;
}

/* The row of one register that an access is for, if that allows it now, else NULL. */
static inline const struct mmiod_published_row *mmiod_row_at(const struct mmiod_client *client, uint8_t space,
                                                             uint8_t kind, uint64_t address, uint16_t size)
{
    const struct mmiod_published_row *rows = mmiod_rows(client->shared);
    uint64_t base = address, gate, tried = ~address;
    uint64_t unit;

    for (unit = 1; unit <= 8; unit *= 2) {
        uint32_t place;
        base = address & ~(unit - 1);
        if (base == tried)
            continue;
        tried = base;
        place = mmiod_view_place(space, kind, base);
        for (; client->view->places[place]; place = (place + 1) & (MMIOD_VIEW_PLACES - 1)) {
            const struct mmiod_published_row *row = &rows[client->view->places[place] - 1];
            if (row->address == base && row->space == space && row->kind == kind && size >= row->least &&
                address - base + size <= row->size && (address - base) % size == 0 &&
                (uint8_t)mmiod_row_policy(rows, row, &gate)) /* above its bits is the version */
                return row;
        }
    }
    return NULL;
}

/* The span or window that an access lies in, if it is there now, else NULL. */
static inline const struct mmiod_published_row *mmiod_span_at(const struct mmiod_client *client, uint8_t space,
                                                              uint64_t address, uint16_t size)
{
    const struct mmiod_published_row *rows = mmiod_rows(client->shared);
    uint32_t n;

    for (n = 0; n < client->view->span_count; n++) {
        const struct mmiod_view_span *span = &client->view->spans[n];
        if (span->space == space && address >= span->first && address <= span->last &&
            size - 1u <= span->last - address)
            return &rows[span->row];
    }
    return NULL;
}

/* Whether a posted write changes what `row` is about: it is to a register that `affected` names. */
static inline int mmiod_affects(const struct mmiod_client *client, const struct mmiod_shared_posted *entry,
                                const struct mmiod_published_row *row)
{
    const struct mmiod_published_row *rows = mmiod_rows(client->shared);
    uint64_t unit, tried = ~entry->address;
    int known = 0;

    for (unit = 1; unit <= 8; unit *= 2) {
        uint64_t base = entry->address & ~(unit - 1);
        uint32_t place = mmiod_view_place(entry->space, MMIOD_PUBLISHED_KIND_WRITE, base);
        if (base == tried)
            continue;
        tried = base;
        for (; client->view->places[place]; place = (place + 1) & (MMIOD_VIEW_PLACES - 1)) {
            uint32_t number = client->view->places[place] - 1u;
            const struct mmiod_published_row *found = &rows[number];
            if (found->address != base || found->space != entry->space ||
                found->kind != MMIOD_PUBLISHED_KIND_WRITE || entry->address - base >= found->size)
                continue;
            known = 1;
            number -= row->device + 1;
            if (found->device == row->device && number < 64 && row->affected >> number & 1)
                return 1;
        }
    }
    return !known; /* nobody knows what it changes */
}

/*
 * How many vCPUs have posted writes under way that change what `row` is about; `value` gets the
 * last one's.
 */
static inline uint32_t mmiod_undrained(const struct mmiod_client *client,
                                       const struct mmiod_published_row *row, uint64_t *value)
{
    uint32_t vcpu, found = 0;

    if (!row->affected)
        return 0;
    for (vcpu = 0; vcpu < client->shared->slots; vcpu++) {
        const struct mmiod_shared_slot *slot = mmiod_slot(client->shared, vcpu);
        uint64_t posted = __atomic_load_n(&slot->posted, __ATOMIC_ACQUIRE);
        uint64_t applied = __atomic_load_n(&slot->applied, __ATOMIC_ACQUIRE);
        for (; posted > applied; posted--) {
            const struct mmiod_shared_posted *entry = &slot->ring[posted % MMIOD_SHARED_RING];
            if (!mmiod_affects(client, entry, row))
                continue;
            *value = entry->value;
            found++;
            break;
        }
    }
    return found;
}

/* Waits a little while until no posted write is under way that changes what `row` is about. */
static inline int mmiod_drained(struct mmiod_client *client, const struct mmiod_published_row *row)
{
    uint32_t looks = client->spin;
    uint64_t value;

    if (!mmiod_undrained(client, row, &value))
        return 1;
    client->view->waits++;
    while (looks-- > 0) {
#ifdef __x86_64__
        __builtin_ia32_pause();
#endif
        if (!mmiod_undrained(client, row, &value))
            return 1;
    }
    return 0;
}

/*
 * What posted writes under way leave in a register that echoes them: 1, if they are one vCPU's and
 * all that `row` would wait for, else 0.
 */
static inline int mmiod_echo(const struct mmiod_client *client, const struct mmiod_published_row *row,
                             uint64_t *written)
{
    uint32_t vcpu, writers = 0;

    for (vcpu = 0; vcpu < client->shared->slots; vcpu++) {
        const struct mmiod_shared_slot *slot = mmiod_slot(client->shared, vcpu);
        uint64_t posted = __atomic_load_n(&slot->posted, __ATOMIC_ACQUIRE);
        uint64_t applied = __atomic_load_n(&slot->applied, __ATOMIC_ACQUIRE);
        uint64_t sequence, last = 0;
        for (sequence = posted; sequence > applied; sequence--) {
            const struct mmiod_shared_posted *entry = &slot->ring[sequence % MMIOD_SHARED_RING];
            if (!mmiod_affects(client, entry, row))
                continue;
            if (entry->space != row->space || entry->address != row->address || entry->size != row->size)
                return 0;
            if (!last)
                *written = entry->value;
            last = sequence;
        }
        writers += last != 0;
    }
    return writers == 1;
}

/* A counter's value now; 0 where <time.h> hides POSIX (define _POSIX_C_SOURCE before it). */
static inline int mmiod_count(const struct mmiod_client *client, const struct mmiod_published_row *row,
                              uint64_t *value)
{
#ifdef CLOCK_MONOTONIC
    const struct mmiod_published_header *header;
    struct timespec time;
    uint64_t passed;

    header = (const struct mmiod_published_header *)(const void *)mmiod_published(client->shared);
    clock_gettime(CLOCK_MONOTONIC, &time);
    passed = (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec - header->origin_ns - row->since;
    *value = row->value + passed / 1000000000u * row->rate + passed % 1000000000u * row->rate / 1000000000u;
    if (row->bits < 64)
        *value &= ((uint64_t)1 << row->bits) - 1;
    return 1;
#else
    (void)client, (void)row, (void)value;
    return 0;
#endif
}

static inline uint64_t mmiod_part(uint64_t value, uint64_t skip, uint16_t size)
{
    value >>= 8 * skip;
    return size < 8 ? value & (((uint64_t)1 << 8 * size) - 1) : value;
}

/*
 * What a window leads to: 1, and `space` and `address` are those behind it; 2: nothing, which reads
 * ones; 0: nobody knows without a message.
 */
static inline int mmiod_through(const struct mmiod_client *client, const struct mmiod_published_row *row,
                                uint8_t *space, uint64_t *address)
{
    const struct mmiod_published_row *rows = mmiod_rows(client->shared);
    uint64_t offset = *address - row->address, value = 0, gate, latched = 0;
    uint32_t latches = row->kind == MMIOD_PUBLISHED_KIND_CONFIG_WINDOW ? mmiod_undrained(client, row, &latched) : 0;
    uint64_t policy = mmiod_row_policy(rows, row, &gate);

    value = latches ? latched : __atomic_load_n(&row->value, __ATOMIC_ACQUIRE);
    *space = (uint8_t)row->rate;
    if (latches > 1 || !(policy & MMIOD_PUBLISHED_POLICY_READ) || !mmiod_row_stands(client, row, policy, gate))
        return 0;
    if (row->kind == MMIOD_PUBLISHED_KIND_WINDOW) {
        *address = value + offset;
        return 1;
    }
    *address = (value >> 8 & 0xffff) << 12 | (value & 0xfc) | offset;
    return value >> 31 & 1 ? 1 : 2;
}

/* Reads 1, 2, 4 or 8 bytes without a message: 1, or 0 if one is needed. */
static inline int mmiod_read_published(struct mmiod_client *client, uint8_t space, uint64_t address,
                                       uint16_t size, uint64_t *value)
{
    const struct mmiod_published_row *row;
    uint64_t policy, gate, found, written = 0;
    int hops, echoed;

    if (!mmiod_view_ready(client))
        return 0;
    for (hops = 0; !(row = mmiod_row_at(client, space, MMIOD_PUBLISHED_KIND_READ, address, size)); hops++) {
        int through;
        row = mmiod_span_at(client, space, address, size);
        if (!row || hops > 1 || address % size)
            return 0;
        if (row->kind == MMIOD_PUBLISHED_KIND_SPAN)
            break;
        through = mmiod_through(client, row, &space, &address);
        if (through == 0)
            return 0;
        if (through == 2) {
            *value = mmiod_part(~(uint64_t)0, 0, size);
            client->view->loads++;
            return 1;
        }
    }
    policy = mmiod_row_policy(mmiod_rows(client->shared), row, &gate);
    echoed = policy & MMIOD_PUBLISHED_POLICY_ECHO && mmiod_echo(client, row, &written);
    if (!echoed && !mmiod_drained(client, row))
        return 0;
    policy = mmiod_row_policy(mmiod_rows(client->shared), row, &gate);
    if (policy & MMIOD_PUBLISHED_POLICY_READ)
        found = __atomic_load_n(&row->value, __ATOMIC_ACQUIRE);
    else if (!(policy & MMIOD_PUBLISHED_POLICY_COUNTER) || !mmiod_count(client, row, &found))
        return 0;
    if (!mmiod_row_stands(client, row, policy, gate))
        return 0;
    if (echoed)
        found = (found & ~row->rate) | (written & row->rate);
    *value = mmiod_part(found, row->kind == MMIOD_PUBLISHED_KIND_SPAN ? 0 : address - row->address, size);
    client->view->loads++;
    return 1;
}

/* Posts a write of 1, 2, 4 or 8 bytes if nobody has to wait for it: 1; 0 if it has to be sent; or an error. */
static inline int mmiod_post_published(struct mmiod_client *client, uint8_t space, uint64_t address,
                                       uint16_t size, uint64_t value)
{
    const struct mmiod_published_row *row;
    uint64_t policy, gate;
    int hops, result;

    if (!mmiod_view_ready(client))
        return 0;
    for (hops = 0; !(row = mmiod_row_at(client, space, MMIOD_PUBLISHED_KIND_WRITE, address, size)); hops++) {
        row = mmiod_span_at(client, space, address, size);
        if (!row || hops > 1 || address % size)
            return 0;
        if (row->kind == MMIOD_PUBLISHED_KIND_SPAN)
            break;
        result = mmiod_through(client, row, &space, &address);
        if (result != 1)
            return 0;
    }
    if (!mmiod_drained(client, row))
        return 0;
    policy = mmiod_row_policy(mmiod_rows(client->shared), row, &gate);
    if (!(policy & MMIOD_PUBLISHED_POLICY_POST) || !mmiod_row_stands(client, row, policy, gate))
        return 0;
    client->view->posts++;
    if (row->kind == MMIOD_PUBLISHED_KIND_SPAN)
        return 1; /* nobody is there */
    result = mmiod_post(client, space, address, size, value);
    return result < 0 ? result : 1;
}

/* Reads 1, 2, 4 or 8 bytes, without a message where none is needed. */
static inline int mmiod_load(struct mmiod_client *client, uint8_t space, uint64_t address, uint16_t size,
                             uint64_t *value)
{
    return mmiod_read_published(client, space, address, size, value)
               ? 0
               : mmiod_read(client, space, address, size, value);
}

/* Writes 1, 2, 4 or 8 bytes, and waits only where that is needed. */
static inline int mmiod_store(struct mmiod_client *client, uint8_t space, uint64_t address, uint16_t size,
                              uint64_t value)
{
    int result = mmiod_post_published(client, space, address, size, value);

    return result == 0 ? mmiod_write(client, space, address, size, value) : result < 0 ? result : 0;
}

#endif /* MMIOD_EXIT_LAYOUT_ONLY */

#endif /* MMIOD_EXIT_H */
