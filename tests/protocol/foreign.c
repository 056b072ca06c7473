/* A client that knows include/mmiod_exit.h and nothing else: see test_header.py. */
#include "mmiod_exit.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#ifdef __cplusplus
#define NOTHING {}
#else
#define NOTHING {0}
#endif

static int send_bytes(const void *message, size_t size)
{
    return fwrite(message, 1, size, stdout) == size ? 0 : 1;
}

static int hello(void)
{
    struct mmiod_msg_hello message = NOTHING;

    message.header.size = sizeof(message);
    message.header.type = MMIOD_MSG_HELLO;
    message.version_min = message.version_max = MMIOD_EXIT_VERSION;
    message.vcpus = 2;
    message.required = MMIOD_CAPABILITY_INTR;
    message.optional = MMIOD_CAPABILITY_MSI | MMIOD_CAPABILITY_VECTORS;
    message.shared_mask = UINT64_C(1) << 47;
    message.bitness = 64;
    message.physical_bits = 48;
    strcpy(message.vm, "vm0");
    strcpy(message.vendor, "foreign");
    return send_bytes(&message, sizeof(message));
}

static int map(void)
{
    struct mmiod_msg_map message = NOTHING;

    message.header.size = sizeof(message);
    message.header.type = MMIOD_MSG_MAP;
    message.header.flags = MMIOD_MAP_FLAG_READ_ONLY;
    message.serial = 7;
    message.slot = 1;
    message.gpa = 0xe0000;
    message.length = 0x20000;
    message.offset = 0x1000;
    return send_bytes(&message, sizeof(message));
}

static int decoded(void)
{
    struct mmiod_msg_exit_decoded message = NOTHING;

    message.header.size = sizeof(message);
    message.header.type = MMIOD_MSG_EXIT_DECODED;
    message.exit.vcpu = 1;
    message.exit.sequence = 5;
    message.exit.guest_ns = 1234;
    message.address = 0x3f8;
    message.value = 0x41;
    message.space = MMIOD_SPACE_PIO;
    message.direction = MMIOD_DIRECTION_WRITE;
    message.size = 1;
    message.count = 1;
    return send_bytes(&message, sizeof(message));
}

static int raw(void)
{
    struct mmiod_msg_exit_raw message = NOTHING;
    unsigned i;

    message.header.size = sizeof(message);
    message.header.type = MMIOD_MSG_EXIT_RAW;
    message.header.flags = MMIOD_EXIT_RAW_FLAG_GPA | MMIOD_EXIT_RAW_FLAG_INTENT;
    message.exit.sequence = 1;
    message.gpa = 0xfed40000;
    message.intent = MMIOD_INTENT_WRITE;
    message.code_length = 2;
    message.cpl = 3;
    memcpy(message.code, "\x89\x07", 2);
    for (i = 0; i < 16; i++)
        message.vcpu.gpr[i] = 0x100 + i;
    message.vcpu.rip = 0x401000;
    message.vcpu.rflags = 0x202;
    message.vcpu.cr0 = 0x80000011;
    message.vcpu.dr7 = 0x400;
    message.vcpu.segments[1].attributes = 0xa09b;
    message.vcpu.idtr.limit = 0xfff;
    return send_bytes(&message, sizeof(message));
}

/* Prints what a completion on the standard input says. */
static int completion(void)
{
    union {
        struct mmiod_header header;
        struct mmiod_msg_values values;
        struct mmiod_msg_done done;
        struct mmiod_msg_fault fault;
        unsigned char bytes[MMIOD_EXIT_MAX_MESSAGE];
    } in;
    size_t size = fread(in.bytes, 1, sizeof(in.bytes), stdin);

    if (size < sizeof(in.header) || size != in.header.size)
        return 1;
    switch (in.header.type) {
    case MMIOD_MSG_VALUES:
        printf("values %" PRIu32 " %" PRIu64 " %" PRIx64 " %" PRIu32 "\n", in.values.completion.vcpu,
               in.values.completion.sequence, in.values.value, in.values.length);
        return 0;
    case MMIOD_MSG_DONE:
        printf("done %" PRIx64 " %" PRIx64 " %" PRIx32 " %" PRIx64 "\n", in.done.rip, in.done.rflags,
               in.done.changed, in.done.gpr[3]);
        return 0;
    case MMIOD_MSG_FAULT:
        printf("fault %" PRIu32 " %d %" PRIx32 " %" PRIx64 "\n", in.fault.vector,
               !!(in.header.flags & MMIOD_FAULT_FLAG_CR2), in.fault.error_code, in.fault.cr2);
        return 0;
    default:
        return 1;
    }
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";

    if (!strcmp(what, "hello"))
        return hello();
    if (!strcmp(what, "map"))
        return map();
    if (!strcmp(what, "decoded"))
        return decoded();
    if (!strcmp(what, "raw"))
        return raw();
    return completion();
}
