/*
 * A hypervisor that exits through shared memory: slots EXIT_SOCKET VM KIND COUNT VCPUS SPIN
 *
 * KIND is decoded, raw or posted.  One thread keeps an exit of each of VCPUS vCPUs outstanding,
 * COUNT in all; with one vCPU that is a closed loop, in which the client looks SPIN times at the
 * slot before it sleeps (with more of them it never sleeps).  Of posted writes it sends COUNT and
 * waits for the last.  All load or store the same register of the test function; what comes back
 * is checked.  It prints one line: KIND VCPUS p50 p99 p99.9 (ns) and exits per second.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "mmiod_exit.h"

#define FUNCTION (3u << 15) /* 00:03.0, `testdev` of config/machines/pc.toml */
#define BASE 0xfebf0000u
#define SCRATCH 0x04u
#define PATTERN 0x6d6d696fu
#define RIP 0x1000u
#define MAX_VCPUS 64u
#define FLAT(sel, attr) { .base = 0, .limit = 0xffffffff, .selector = (sel), .attributes = (attr) }

static struct mmiod_client client;
static struct mmiod_shared shared;

static const struct mmiod_vcpu flat = {
    .gpr = { [3] = BASE, [4] = 0x8000 },
    .rip = RIP,
    .rflags = 2,
    .cr0 = 1, /* protected mode, no paging */
    .segments = { FLAT(16, 0xc093), FLAT(8, 0xc09b), FLAT(16, 0xc093),
                  FLAT(16, 0xc093), FLAT(16, 0xc093), FLAT(16, 0xc093) },
    .gdtr = { .limit = 23 },
};
static const uint8_t load[15] = { 0x8b, 0x43, SCRATCH, 0x90, 0x90, 0x90, 0x90, 0x90,
                                  0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90 };

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void must(int result, const char *what)
{
    if (result < 0)
        errx(1, "%s: %s; %.40s: %.120s", what, strerror(-result), client.error.name, client.error.reason);
}

static int sealed(const char *name, size_t length)
{
    int descriptor = memfd_create(name, MFD_ALLOW_SEALING | MFD_CLOEXEC);
    if (descriptor < 0 || ftruncate(descriptor, (off_t)length) < 0 ||
        fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK) < 0)
        err(1, "%s", name);
    return descriptor;
}

static void attach(const char *path, const char *vm, uint32_t vcpus)
{
    mmiod_client_init(&client, path, vm);
    client.patience_ms = 20000;
    client.hello.vcpus = vcpus;
    client.hello.required = MMIOD_CAPABILITY_SHARED_MEMORY;
    must(mmiod_open(&client), "open");
    must(mmiod_map(&client, 0, 0, 1u << 20, sealed("ram", 1u << 20), 0, 0), "map");
    must(mmiod_write(&client, MMIOD_SPACE_PCI_CONFIG, FUNCTION | 0x10, 4, BASE), "BAR");
    must(mmiod_write(&client, MMIOD_SPACE_PCI_CONFIG, FUNCTION | 0x04, 2, 2), "command");
    must(mmiod_write(&client, MMIOD_SPACE_MMIO, BASE + SCRATCH, 4, PATTERN), "scratch");
    must(mmiod_share(&client, &shared, sealed("slots", MMIOD_SHARED_PAGE * (1 + (size_t)vcpus))), "share");
}

/* --- one exit of each vCPU outstanding ------------------------------------------------- */

static union mmiod_message exits[MAX_VCPUS];

static void prepare(bool raw, uint32_t vcpu)
{
    union mmiod_message *out = &exits[vcpu];
    out->header.size = raw ? sizeof(out->exit_raw) : sizeof(out->exit_decoded);
    out->header.type = raw ? MMIOD_MSG_EXIT_RAW : MMIOD_MSG_EXIT_DECODED;
    out->exit_halt.exit.vcpu = vcpu;
    out->exit_halt.exit.sequence = vcpu ? 0 : client.sequence;
    if (raw) {
        out->header.flags = MMIOD_EXIT_RAW_FLAG_GPA;
        out->exit_raw.gpa = BASE + SCRATCH;
        out->exit_raw.code_length = sizeof(load);
        memcpy(out->exit_raw.code, load, sizeof(load));
        out->exit_raw.vcpu = flat;
    } else {
        out->exit_decoded.address = BASE + SCRATCH;
        out->exit_decoded.space = MMIOD_SPACE_MMIO;
        out->exit_decoded.size = 4;
        out->exit_decoded.count = 1;
    }
}

static void send_exit(uint32_t vcpu)
{
    exits[vcpu].exit_halt.exit.sequence++;
    mmiod_slot_post(&shared, vcpu, &exits[vcpu], exits[vcpu].header.size);
}

static void check(uint32_t vcpu, bool raw)
{
    const union mmiod_message *in = (const void *)mmiod_slot(&shared, vcpu)->completion;
    bool right = raw ? in->header.type == MMIOD_MSG_DONE && in->done.changed == 1 &&
                           in->done.gpr[0] == PATTERN && in->done.rip == RIP + 3
                     : in->header.type == MMIOD_MSG_VALUES && in->values.length == 4 &&
                           in->values.value == PATTERN;
    if (!right || in->retry.completion.sequence != exits[vcpu].exit_halt.exit.sequence)
        errx(1, "vCPU %u was answered by message %u", vcpu, in->header.type);
}

static void check_connection(void)
{
    static uint32_t turns;
    if (++turns % (1u << 22) == 0)
        must(mmiod_poll(&client), "poll");
}

static void all_outstanding(bool raw, uint32_t vcpus, uint32_t count, uint32_t spin, uint64_t *samples)
{
    uint64_t sent[MAX_VCPUS];
    uint32_t done = 0, begun = 0;

    must(mmiod_slot_hear(&shared, 0, client.socket), "epoll");
    for (uint32_t vcpu = 0; vcpu < vcpus; vcpu++) {
        prepare(raw, vcpu);
        sent[vcpu] = now();
        send_exit(vcpu);
        begun++;
    }
    for (uint32_t vcpu = 0; done < count; vcpu = (vcpu + 1) % vcpus) {
        uint32_t state = mmiod_slot_spin(&shared, vcpu, vcpus > 1 ? 0 : spin);
        if (state == MMIOD_SHARED_STATE_READY && vcpus == 1)
            state = mmiod_slot_wait(&shared, vcpu);
        check_connection();
        if (state == MMIOD_SHARED_STATE_READY || state == MMIOD_SHARED_STATE_FREE)
            continue;
        if (state != MMIOD_SHARED_STATE_COMPLETE)
            errx(1, "the slot of vCPU %u is in state %u", vcpu, state);
        samples[done++] = now() - sent[vcpu];
        check(vcpu, raw);
        mmiod_slot(&shared, vcpu)->state = MMIOD_SHARED_STATE_FREE;
        if (begun < count) {
            begun++;
            sent[vcpu] = now();
            send_exit(vcpu);
        }
    }
}

/* --- posted writes ----------------------------------------------------------------------- */

static void posted(uint32_t count, uint64_t *samples)
{
    for (uint32_t n = 0; n < count; n++) {
        uint64_t before = now();
        while (!mmiod_post_fits(&client))
            ;
        must(mmiod_post(&client, MMIOD_SPACE_MMIO, BASE + SCRATCH, 4, n + 1), "post");
        samples[n] = now() - before;
    }
    uint64_t value;
    must(mmiod_read(&client, MMIOD_SPACE_MMIO, BASE + SCRATCH, 4, &value), "read");
    if (value != count)
        errx(1, "the register has %" PRIu64, value);
}

static int by_value(const void *one, const void *other)
{
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return a < b ? -1 : a > b;
}

int main(int argc, char **argv)
{
    if (argc != 7)
        errx(2, "slots EXIT_SOCKET VM decoded|raw|posted COUNT VCPUS SPIN");
    uint32_t count = (uint32_t)atoi(argv[4]), vcpus = (uint32_t)atoi(argv[5]), spin = (uint32_t)atoi(argv[6]);
    if (count == 0 || vcpus == 0 || vcpus > MAX_VCPUS)
        errx(2, "COUNT is at least 1, VCPUS is 1..%u", MAX_VCPUS);
    uint64_t *samples = calloc(count, sizeof(*samples));
    attach(argv[1], argv[2], vcpus);
    client.spin = spin;
    uint64_t start = now();
    if (strcmp(argv[3], "posted") == 0)
        posted(count, samples);
    else
        all_outstanding(strcmp(argv[3], "raw") == 0, vcpus, count, spin, samples);
    uint64_t taken = now() - start;
    qsort(samples, count, sizeof(*samples), by_value);
    printf("%s %u %" PRIu64 " %" PRIu64 " %" PRIu64 " %.0f\n", argv[3], vcpus, samples[count / 2],
           samples[(uint64_t)count * 99 / 100], samples[(uint64_t)count * 999 / 1000],
           (double)count * 1e9 / (double)taken);
    return 0;
}
