/*
 * A boot's accesses, one vCPU's, in order: replay EXIT_SOCKET VM TRACE GAP CHECK
 *
 * TRACE is entries of struct access.  Between two of them the client computes for GAP ns, as a
 * guest does.  With CHECK 1 every published read is followed by the same read as a message, and
 * both must be equal; of a counter the second one must be a little later.  It writes a struct took
 * for each access, and behind them how many published reads were different, 8 bytes.
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
#include <sys/stat.h>
#include <time.h>

#include "mmiod_exit.h"

#define PM (1u << 15 | 3u << 12) /* 00:01.3: its ports are put where a Q35 has them */
#define SECOND 100000000u /* ticks of the fastest counter */

struct access {
    uint8_t write;
    uint8_t size;
    uint8_t region;
    uint8_t space;
    uint32_t counter; /* its width in bits, 0 for what is none */
    uint64_t address;
    uint64_t value;
};

enum way { MESSAGE, LOAD, POST };
enum cause { NONE, UNDECLARED, NOT_NOW }; /* why a message: no row is about it, or its policy forbids */

struct took {
    uint32_t ns; /* that the vCPU waited, less what it takes to look at the clock */
    uint8_t way;
    uint8_t cause;
    uint8_t asleep; /* the daemon, when the access began */
    uint8_t waited; /* for posted writes */
};

static struct mmiod_client client;
static struct mmiod_shared shared;
static struct mmiod_view view;
static uint64_t clock_ns, different;

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

static void attach(const char *path, const char *vm)
{
    size_t length = 2 * (size_t)MMIOD_SHARED_PAGE + MMIOD_PUBLISHED_BYTES;

    mmiod_client_init(&client, path, vm);
    client.patience_ms = 20000;
    client.spin = 1u << 16;
    client.hello.required = MMIOD_CAPABILITY_SHARED_MEMORY | MMIOD_CAPABILITY_PUBLISHED;
    must(mmiod_open(&client), "open");
    must(mmiod_map(&client, 0, 0, 1u << 20, sealed("ram", 1u << 20), 0, 0), "map");
    must(mmiod_write(&client, MMIOD_SPACE_PCI_CONFIG, PM | 0x40, 4, 0x601), "PMBA");
    must(mmiod_write(&client, MMIOD_SPACE_PCI_CONFIG, PM | 0x80, 1, 1), "PMREGMISC");
    must(mmiod_share(&client, &shared, sealed("slots", length)), "share");
    client.view = &view;
}

static void calibrate(void)
{
    clock_ns = UINT64_MAX;
    for (int n = 0; n < 100000; n++) {
        uint64_t start = now(), taken = now() - start;
        clock_ns = taken < clock_ns ? taken : clock_ns;
    }
}

static void check(const struct access *access, uint64_t seen)
{
    uint64_t asked, mask = access->counter < 64 ? ((uint64_t)1 << access->counter) - 1 : UINT64_MAX;

    if (mmiod_read(&client, access->space, access->address, access->size, &asked) < 0)
        asked = ~seen;
    if (asked == seen || (access->counter && ((asked - seen) & mask) < SECOND))
        return;
    different++;
    warnx("%#" PRIx64 " (%u): published %#" PRIx64 ", asked %#" PRIx64, access->address, access->size, seen,
          asked);
}

/* Whether a row is about an access, be it that its policy forbids now. */
static bool declared(const struct access *access)
{
    const struct mmiod_published_row *rows = mmiod_rows(&shared);
    uint8_t kind = access->write ? MMIOD_PUBLISHED_KIND_WRITE : MMIOD_PUBLISHED_KIND_READ;

    if (!mmiod_view_ready(&client))
        return false;
    for (uint32_t place = 0; place < MMIOD_VIEW_PLACES; place++) {
        const struct mmiod_published_row *row = view.places[place] ? &rows[view.places[place] - 1] : NULL;
        if (row && row->kind == kind && row->space == access->space && access->address - row->address < row->size)
            return true;
    }
    return false;
}

static bool daemon_sleeps(void)
{
    const struct mmiod_shared_header *header = (const void *)shared.memory;

    return __atomic_load_n(&header->daemon_sleeps, __ATOMIC_RELAXED);
}

static struct took perform(const struct access *access, bool checks)
{
    uint64_t loads = view.loads, posts = view.posts, waits = view.waits, value = 0, start, ns;
    struct took took = {.asleep = daemon_sleeps()};
    int result;

    start = now();
    result = access->write ? mmiod_store(&client, access->space, access->address, access->size, access->value)
                           : mmiod_load(&client, access->space, access->address, access->size, &value);
    ns = now() - start;
    took.ns = ns < clock_ns ? 0 : (uint32_t)(ns - clock_ns);
    took.way = view.loads != loads ? LOAD : view.posts != posts ? POST : MESSAGE;
    took.cause = took.way != MESSAGE ? NONE : declared(access) ? NOT_NOW : UNDECLARED;
    took.waited = view.waits != waits;
    if (result < 0 && result != -ENXIO)
        must(result, "access");
    if (checks && took.way == LOAD)
        check(access, value);
    return took;
}

static void compute(uint64_t ns)
{
    uint64_t end = now() + ns;

    while (ns && now() < end)
        ;
}

static void put(const void *bytes, size_t size, size_t count)
{
    if (fwrite(bytes, size, count, stdout) != count)
        err(1, "output");
}

int main(int argc, char **argv)
{
    const struct access *accesses;
    struct took *took;
    struct stat file;
    size_t count;
    int trace;

    if (argc != 6)
        errx(2, "usage: replay EXIT_SOCKET VM TRACE GAP CHECK");
    trace = open(argv[3], O_RDONLY | O_CLOEXEC);
    if (trace < 0 || fstat(trace, &file) < 0)
        err(1, "%s", argv[3]);
    accesses = mmap(NULL, (size_t)file.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, trace, 0);
    if (accesses == MAP_FAILED)
        err(1, "%s", argv[3]);
    count = (size_t)file.st_size / sizeof(*accesses);
    took = calloc(count, sizeof(*took));
    if (!took)
        err(1, "%zu accesses", count);
    attach(argv[1], argv[2]);
    calibrate();
    for (size_t n = 0; n < count; n++) {
        took[n] = perform(&accesses[n], atoi(argv[5]) != 0);
        compute(strtoull(argv[4], NULL, 10));
    }
    put(took, sizeof(*took), count);
    put(&different, sizeof(different), 1);
    return 0;
}
