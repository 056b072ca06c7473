/*
 * A client written from docs/protocol.md and mmiod_exit.h: client EXIT_SOCKET VM SCENARIO.
 * It prints what it observes; tests/functional/test_c_client.py knows what that must be.
 */
#include "mmiod_exit.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define CAPABILITIES (MMIOD_CAPABILITY_INTR | MMIOD_CAPABILITY_REQUESTS | MMIOD_CAPABILITY_MEMORY_MESSAGES)
#define FUNCTION (3u << 15) /* 00:03.0: devices/pci/testdev.py tells its registers */
#define BAR 0xfebf0000u
#define RAM_BAR 0xfeb00000u
#define SCRATCH (BAR + 0x04)
#define COUNT (BAR + 0x10)

static struct mmiod_client client;
static uint32_t level = 2; /* of the interrupt, as INTR told it last: that comes when its time has come */

static int must(int result)
{
    if (result >= 0)
        return result;
    fprintf(stderr, "%s; %.40s: %.120s\n", strerror(-result), client.error.name, client.error.reason);
    exit(1);
}

static void put(uint8_t space, uint64_t address, uint16_t size, uint64_t value)
{
    must(mmiod_write(&client, space, address, size, value));
}

static uint64_t get(uint8_t space, uint64_t address, uint16_t size)
{
    uint64_t value;
    must(mmiod_read(&client, space, address, size, &value));
    return value;
}

static void place_bars(void)
{
    put(MMIOD_SPACE_PCI_CONFIG, FUNCTION | 0x10, 4, BAR);
    put(MMIOD_SPACE_PCI_CONFIG, FUNCTION | 0x18, 4, RAM_BAR);
    put(MMIOD_SPACE_PCI_CONFIG, FUNCTION | 0x04, 2, 2);
}

/* Prints what the daemon says unasked, but for INTR; a request ends a wait. */
static int tell(void *context, const union mmiod_message *message)
{
    (void)context;
    if (message->header.type == MMIOD_MSG_WELCOME)
        printf("welcome %d\n", message->header.flags & MMIOD_WELCOME_FLAG_CONTINUED);
    level = message->header.type == MMIOD_MSG_INTR ? message->intr.level : level;
    if (message->header.type == MMIOD_MSG_REQUEST)
        printf("request %" PRIu32 "\n", message->request.kind);
    return message->header.type == MMIOD_MSG_REQUEST;
}

static void decoded(void)
{
    char text[8] = "", back[17] = "", forth[] = "sixteen elements";
    put(MMIOD_SPACE_MMIO, SCRATCH, 4, 0x12345678);
    printf("%" PRIx64 " %" PRIx64 "\n", get(MMIOD_SPACE_MMIO, SCRATCH, 4), get(MMIOD_SPACE_MMIO, SCRATCH, 2));
    put(MMIOD_SPACE_PIO, 0x510, 2, 0);
    must(mmiod_access(&client, MMIOD_SPACE_PIO, MMIOD_DIRECTION_READ, 0x511, 1, 4, 0, text));
    printf("%s\n", text);
    must(mmiod_access(&client, MMIOD_SPACE_MMIO, MMIOD_DIRECTION_WRITE, RAM_BAR, 1, 16, 1, forth));
    must(mmiod_access(&client, MMIOD_SPACE_MMIO, MMIOD_DIRECTION_READ, RAM_BAR + 15, 1, 16, -1, back));
    printf("%s\n", back);
}

static int execute(struct mmiod_vcpu *vcpu, const char *code, size_t length)
{
    mmiod_raw(&client, vcpu, code, length);
    must(mmiod_exchange(&client));
    mmiod_apply(vcpu, &client.in);
    return client.in.header.type;
}

static void raw(void)
{
    struct mmiod_vcpu vcpu;
    struct mmiod_supplement_memory memory;
    const struct mmiod_supplement *written;
    int i;
    memset(&vcpu, 0, sizeof(vcpu));
    for (i = 0; i < 6; i++) {
        vcpu.segments[i].limit = 0xffffffff;
        vcpu.segments[i].attributes = i == 1 ? 0xc09b : 0xc093;
    }
    vcpu.cr0 = 1;
    vcpu.rflags = 2;
    vcpu.rip = 0x1000;
    vcpu.gpr[3] = BAR;
    execute(&vcpu, "\x8b\x03", 2); /* mov eax, [ebx] */
    printf("rax %" PRIx64 " rip %" PRIx64 "\n", vcpu.gpr[0], vcpu.rip);
    vcpu.gpr[6] = 0x8000; /* RAM that only messages reach */
    vcpu.gpr[7] = SCRATCH;
    must(mmiod_map(&client, 0, 0, 0x10000, -1, 0, MMIOD_MAP_FLAG_NO_DESCRIPTOR));
    i = execute(&vcpu, "\xa5", 1); /* movsd */
    memory.gpa = client.in.need_memory.gpa;
    printf("need %d %" PRIx64 " %" PRIu32 "\n", i, memory.gpa, client.in.need_memory.length);
    must(mmiod_supply(&client, MMIOD_SUPPLEMENT_KIND_MEMORY, &memory, sizeof(memory), "RAM!", 4));
    must(mmiod_exchange(&client));
    mmiod_apply(&vcpu, &client.in);
    printf("rsi %" PRIx64 " rdi %" PRIx64 "\n", vcpu.gpr[6], vcpu.gpr[7]);
    vcpu.gpr[6] = BAR;
    vcpu.gpr[7] = 0x9000;
    execute(&vcpu, "\xa5", 1);
    written = mmiod_supplement_after(&client.in, NULL);
    memcpy(&memory, written + 1, sizeof(memory));
    printf("written %" PRIx64 " %.4s", memory.gpa, (const char *)(written + 1) + sizeof(memory));
    printf(" alone %d\n", !mmiod_supplement_after(&client.in, written));
    vcpu.segments[3].limit = 0xfff;
    i = execute(&vcpu, "\x8b\x03", 2);
    printf("answer %d vector %" PRIu32 " rip %" PRIx64 "\n", i, client.in.fault.vector, vcpu.rip);
}

static void posted(void)
{
    for (int i = 0; i < 200; i++)
        must(mmiod_post(&client, MMIOD_SPACE_MMIO, COUNT, 4, 0));
    printf("%" PRIu64 "\n", get(MMIOD_SPACE_MMIO, COUNT, 4));
    printf("%" PRIu64 "\n", client.completion.posted);
}

static void interrupts(void)
{
    static const uint8_t table[][2] = {
        { 0x43, 0x30 }, { 0x20, 0x11 }, { 0x21, 0x20 }, { 0x21, 0x04 }, /* PIC: vectors from 20h */
        { 0x21, 0x01 }, { 0x21, 0xfe }, { 0x40, 0x00 }, { 0x40, 0x10 }, /* PIT: one shot, 3.4 ms */
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        put(MMIOD_SPACE_PIO, table[i][0], 1, table[i][1]);
    must(mmiod_halt(&client));
    printf("intr %" PRIu32 "\npending %" PRIu32 "\n", level, client.interrupt);
    const int vector = must(mmiod_inta(&client));
    printf("intr %" PRIu32 "\nvector %x\n", level, (unsigned int)vector);
}

static void reset(void)
{
    printf("%s\n", strerror(-mmiod_write(&client, MMIOD_SPACE_PIO, 0x92, 1, 1))); /* port 92h: reset */
    must(mmiod_reset(&client, MMIOD_MACHINE));
    printf("%" PRIx64 "\n", get(MMIOD_SPACE_MMIO, SCRATCH, 4));
}

/* The completion of the second read is lost on its way. */
static void resend(void)
{
    printf("%" PRIu64 "\n", get(MMIOD_SPACE_MMIO, COUNT, 4));
    must(mmiod_post(&client, MMIOD_SPACE_MMIO, COUNT, 4, 0));
    shutdown(client.socket, SHUT_RD);
    printf("%" PRIu64 "\n", get(MMIOD_SPACE_MMIO, COUNT, 4));
    printf("%" PRIu64 "\n", get(MMIOD_SPACE_MMIO, COUNT, 4));
}

static void error(void)
{
    put(MMIOD_SPACE_MMIO, SCRATCH, 4, 0xabc);
    printf("%s\n", strerror(-mmiod_write(&client, MMIOD_SPACE_MMIO, SCRATCH, 3, 0)));
    printf("%.40s %" PRIu64 "\n", client.error.name, client.error.value);
    printf("%" PRIx64 "\n", get(MMIOD_SPACE_MMIO, SCRATCH, 4)); /* on a new connection of the session */
}

/* Another vCPU's exit on a connection of its own. */
static void join(void)
{
    static struct mmiod_client channel;
    uint64_t value;
    mmiod_client_join(&channel, &client, 1);
    must(mmiod_open(&channel));
    must(mmiod_read(&channel, MMIOD_SPACE_PCI_CONFIG, FUNCTION, 4, &value));
    printf("%" PRIx64 "\n", value);
    mmiod_close(&channel);
}

static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = { { "decoded", decoded }, { "raw", raw }, { "posted", posted }, { "interrupts", interrupts },
                  { "reset", reset }, { "resend", resend }, { "error", error }, { "join", join } };

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    mmiod_client_init(&client, argv[1], argv[2]);
    client.hello.vcpus = 2;
    client.hello.required = CAPABILITIES;
    client.patience_ms = 10000;
    client.event = tell;
    must(mmiod_open(&client));
    place_bars();
    for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
        if (!strcmp(argv[3], scenarios[i].name))
            scenarios[i].run();
    mmiod_close(&client);
    return 0;
}
