/*
 * The benchmark's hypervisor: one vCPU that does nothing but exit.
 *
 *     client EXIT_SOCKET VM [SPIN]
 *
 * With SPIN exits go through shared memory, and the client looks so many times before it sleeps.
 * It opens a session by the C header and takes commands (commands.h).  All exits are of the same
 * register; what comes back is checked, outside of the time that is taken.
 */
#define _GNU_SOURCE
#include "commands.h"
#include "session.h"

#define RIP 0x1000u
#define LOAD_LENGTH 3
#define FLAT(sel, attr) { .base = 0, .limit = 0xffffffff, .selector = (sel), .attributes = (attr) }

static const uint8_t load[15] = { 0x8b, 0x43, 4, /* mov eax, [ebx + 4] */
                                  0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90 };
static const struct mmiod_vcpu flat = {
    .gpr = { [3] = BASE, [4] = 0x8000 },
    .rip = RIP,
    .rflags = 2,
    .cr0 = 1, /* protected mode, no paging */
    .segments = { FLAT(16, 0xc093), FLAT(8, 0xc09b), FLAT(16, 0xc093),
                  FLAT(16, 0xc093), FLAT(16, 0xc093), FLAT(16, 0xc093) },
    .gdtr = { .limit = 23 },
};

static struct mmiod_client client;
static struct mmiod_shared shared;
static uint64_t value;

static void read_decoded(void)
{
    want(&client, mmiod_read(&client, MMIOD_SPACE_MMIO, SCRATCH, 4, &value), "decoded");
}

static void check_decoded(void)
{
    if (value != PATTERN)
        errx(1, "a decoded exit was completed with %#" PRIx64, value);
}

/* A register that counts its reads: a method of the device runs. */
static void read_hooked(void)
{
    want(&client, mmiod_read(&client, MMIOD_SPACE_MMIO, COUNT, 4, &value), "hooked");
}

static void check_hooked(void)
{
    static uint64_t before;
    if (before && value != before + 1)
        errx(1, "a register that counts its reads gave %" PRIu64 " after %" PRIu64, value, before);
    before = value;
}

static void read_raw(void)
{
    struct mmiod_msg_exit_raw *raw = mmiod_raw(&client, &flat, load, sizeof(load));

    raw->header.flags |= MMIOD_EXIT_RAW_FLAG_GPA;
    raw->gpa = SCRATCH;
    want(&client, mmiod_exchange(&client), "raw");
}

static void check_raw(void)
{
    const struct mmiod_msg_done *done = &client.in.done;
    if (done->header.type != MMIOD_MSG_DONE || done->changed != 1 || done->gpr[0] != PATTERN ||
        done->rip != RIP + LOAD_LENGTH)
        errx(1, "a raw exit was completed by message %u", done->header.type);
}

static void post(void)
{
    want(&client, mmiod_post(&client, MMIOD_SPACE_MMIO, SCRATCH, 4, PATTERN), "posted");
}

/* A published register is a load from shared memory; with SPIN only. */
static void read_published(void)
{
    value = __atomic_load_n((const uint64_t *)(const void *)shared.memory, __ATOMIC_ACQUIRE);
}

static const struct trip trips[] = {
    { "decoded", read_decoded, check_decoded },
    { "hooked", read_hooked, check_hooked },
    { "raw", read_raw, check_raw },
    { "posted", post, NULL },
    { "published", read_published, NULL },
};

int main(int argc, char **argv)
{
    if (argc != 3 && argc != 4)
        errx(2, "usage: client EXIT_SOCKET VM [SPIN]");
    open_session(&client, argv[1], argv[2], 1, argc == 4 ? &shared : NULL);
    if (argc == 4)
        client.spin = (uint32_t)atoi(argv[3]);
    return take_commands(trips, sizeof(trips) / sizeof(trips[0]));
}
