/*
 * A session with `mmiod serve` whose guest can reach the test function's BAR 0.
 */
#ifndef SESSION_H
#define SESSION_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <err.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "mmiod_exit.h"

#define GUEST_MEMORY (1u << 20)
#define PATIENCE_S 20

#define FUNCTION (3u << 15) /* 00:03.0, `testdev` of config/machines/pc.toml */
#define COMMAND 0x04
#define MEMORY_SPACE 2
#define BAR0 0x10
#define BASE 0xfebf0000u
#define SCRATCH (BASE + 4) /* a register of BAR 0 that only stores */
#define COUNT (BASE + 0x10) /* one that counts its reads */
#define PATTERN 0x6d6d696fu

static inline void want(const struct mmiod_client *client, int result, const char *what)
{
    if (result == -EREMOTEIO)
        errx(1, "%s: %.40s is %#llx: %.120s", what, client->error.name,
             (unsigned long long)client->error.value, client->error.reason);
    if (result < 0)
        errx(1, "%s: %s", what, strerror(-result));
}

static inline void be_impatient(int socket)
{
    struct timeval patience = { .tv_sec = PATIENCE_S };
    if (setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
        err(1, "SO_RCVTIMEO");
}

static inline int memory_of(off_t length)
{
    int descriptor = memfd_create("bench", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (descriptor < 0 || ftruncate(descriptor, length) < 0 ||
        fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        err(1, "memory");
    return descriptor;
}

/* With `shared`, exits go through shared memory. */
static inline void open_session(struct mmiod_client *client, const char *path, const char *vm, uint32_t vcpus,
                                struct mmiod_shared *shared)
{
    int memory = memory_of(GUEST_MEMORY);

    mmiod_client_init(client, path, vm);
    client->hello.vcpus = vcpus;
    strcpy(client->hello.vendor, "bench");
    client->hello.required = shared ? MMIOD_CAPABILITY_SHARED_MEMORY : 0;
    want(client, mmiod_open(client), path);
    be_impatient(client->socket);
    want(client, mmiod_map(client, 0, 0, GUEST_MEMORY, memory, 0, 0), "MAP");
    close(memory);
    want(client, mmiod_write(client, MMIOD_SPACE_PCI_CONFIG, FUNCTION | BAR0, 4, BASE), "BAR 0");
    want(client, mmiod_write(client, MMIOD_SPACE_PCI_CONFIG, FUNCTION | COMMAND, 2, MEMORY_SPACE), "COMMAND");
    want(client, mmiod_write(client, MMIOD_SPACE_MMIO, SCRATCH, 4, PATTERN), "scratch");
    if (shared)
        want(client, mmiod_share(client, shared, memory_of(MMIOD_SHARED_PAGE * (1 + (off_t)vcpus))), "SHARE");
}

#endif
