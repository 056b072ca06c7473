/*
 * The benchmark's hypervisor: one vCPU that does nothing but exit.
 *
 *     client EXIT_SOCKET VM ECHO_DESCRIPTOR
 *
 * It opens a session, maps guest memory and places BAR 0 of the test function.  Then it
 * takes commands from standard input, one a line: PEER EXIT COUNT, where PEER is mmiod or
 * echo and EXIT is decoded or raw.  It answers each on standard output by COUNT uint64_t:
 * what each round trip took, in ns.  Both exits load the same register; what mmiod answers
 * is checked, outside of the time that is taken.
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
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "mmiod_exit.h"

#define GUEST_MEMORY (1u << 20)
#define PATIENCE_S 20
#define MAX_COUNT (1u << 20)

#define FUNCTION (3u << 15) /* 00:03.0, `testdev` of config/machines/pc.toml */
#define COMMAND 0x04
#define MEMORY_SPACE 2
#define BAR0 0x10
#define BASE 0xfebf0000u
#define SCRATCH 0x04 /* a register of BAR 0 that only stores */
#define PATTERN 0x6d6d696fu

#define RIP 0x1000u
#define LOAD_LENGTH 3
#define FLAT(sel, attr) { .base = 0, .limit = 0xffffffff, .selector = (sel), .attributes = (attr) }

static struct mmiod_msg_exit_decoded decoded = {
    .header = { sizeof(decoded), MMIOD_MSG_EXIT_DECODED, 0 },
    .address = BASE + SCRATCH,
    .space = MMIOD_SPACE_MMIO,
    .direction = MMIOD_DIRECTION_READ,
    .size = 4,
    .count = 1,
};

static struct mmiod_msg_exit_raw raw = {
    .header = { sizeof(raw), MMIOD_MSG_EXIT_RAW, MMIOD_EXIT_RAW_FLAG_GPA },
    .gpa = BASE + SCRATCH,
    .code_length = 15,
    .code = { 0x8b, 0x43, SCRATCH, /* mov eax, [ebx + SCRATCH] */
              0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90 },
    .vcpu = {
        .gpr = { [3] = BASE, [4] = 0x8000 },
        .rip = RIP,
        .rflags = 2,
        .cr0 = 1, /* protected mode, no paging */
        .segments = { FLAT(16, 0xc093), FLAT(8, 0xc09b), FLAT(16, 0xc093),
                      FLAT(16, 0xc093), FLAT(16, 0xc093), FLAT(16, 0xc093) },
        .gdtr = { .limit = 23 },
    },
};

union reply {
    struct mmiod_header header;
    struct mmiod_msg_error error;
    struct mmiod_msg_values values;
    struct mmiod_msg_done done;
    uint8_t bytes[MMIOD_EXIT_MAX_MESSAGE];
};

struct peer {
    const char *name;
    int socket;
    uint64_t sequence;
};

static bool loaded_value(const union reply *reply)
{
    return reply->values.length == 4 && reply->values.value == PATTERN;
}

static bool loaded_eax(const union reply *reply)
{
    return reply->done.changed == 1 && reply->done.gpr[0] == PATTERN && reply->done.rip == RIP + LOAD_LENGTH;
}

static const struct kind {
    const char *name;
    const void *message;
    size_t size;
    uint64_t *sequence;
    uint16_t completion;
    size_t completion_size;
    bool (*right)(const union reply *reply);
} kinds[] = {
    { "decoded", &decoded, sizeof(decoded), &decoded.exit.sequence,
      MMIOD_MSG_VALUES, sizeof(struct mmiod_msg_values), loaded_value },
    { "raw", &raw, sizeof(raw), &raw.exit.sequence,
      MMIOD_MSG_DONE, sizeof(struct mmiod_msg_done), loaded_eax },
};

static struct peer peers[] = { { .name = "mmiod" }, { .name = "echo" } };
static struct peer *const mmiod = &peers[0];
static struct peer *const echo = &peers[1];

static uint64_t samples[MAX_COUNT];

/* --- messages ------------------------------------------------------------------------ */

static size_t take(int socket, union reply *reply)
{
    ssize_t size = recv(socket, reply, sizeof(*reply), 0);
    if (size < 0)
        err(1, "recv");
    if (size == 0)
        errx(1, "the server closed the connection");
    return (size_t)size;
}

static void expect(const union reply *reply, size_t size, uint16_t type, size_t wanted)
{
    if (reply->header.type == MMIOD_MSG_ERROR && size == sizeof(reply->error))
        errx(1, "mmiod: %.40s is %#" PRIx64 ": %.120s",
             reply->error.name, reply->error.value, reply->error.reason);
    if (reply->header.type != type || size != wanted)
        errx(1, "mmiod answered by message %u of %zu bytes instead of %u", reply->header.type, size, type);
}

static void give(int socket, const void *message, size_t size)
{
    if (send(socket, message, size, MSG_NOSIGNAL) != (ssize_t)size)
        err(1, "send");
}

/* --- the session --------------------------------------------------------------------- */

static void dial(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof(address.sun_path))
        errx(1, "%s: the path is too long for a socket", path);
    strcpy(address.sun_path, path);
    mmiod->socket = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (mmiod->socket < 0 || connect(mmiod->socket, (struct sockaddr *)&address, sizeof(address)) < 0)
        err(1, "%s", path);
}

static void be_impatient(int socket)
{
    struct timeval patience = { .tv_sec = PATIENCE_S };
    if (setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
        err(1, "SO_RCVTIMEO");
}

static void say_hello(const char *vm)
{
    union reply reply;
    struct mmiod_msg_hello hello = {
        .header = { sizeof(hello), MMIOD_MSG_HELLO, 0 },
        .version_min = MMIOD_EXIT_VERSION,
        .version_max = MMIOD_EXIT_VERSION,
        .vcpus = 1,
        .bitness = 64,
        .physical_bits = 40,
        .vendor = "bench",
    };
    memcpy(hello.vm, vm, strnlen(vm, sizeof(hello.vm)));
    give(mmiod->socket, &hello, sizeof(hello));
    expect(&reply, take(mmiod->socket, &reply), MMIOD_MSG_WELCOME, sizeof(struct mmiod_msg_welcome));
}

static int sealed_memory(void)
{
    int descriptor = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (descriptor < 0 || ftruncate(descriptor, GUEST_MEMORY) < 0 ||
        fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        err(1, "guest memory");
    return descriptor;
}

static void map_memory(void)
{
    union reply reply;
    int descriptor = sealed_memory();
    struct mmiod_msg_map map = {
        .header = { sizeof(map), MMIOD_MSG_MAP, 0 },
        .serial = 1,
        .length = GUEST_MEMORY,
    };
    struct iovec part = { .iov_base = &map, .iov_len = sizeof(map) };
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(descriptor))];
    } control = { .head = { CMSG_LEN(sizeof(descriptor)), SOL_SOCKET, SCM_RIGHTS } };
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control.room),
    };
    memcpy(CMSG_DATA(&control.head), &descriptor, sizeof(descriptor));
    if (sendmsg(mmiod->socket, &message, MSG_NOSIGNAL) < 0)
        err(1, "MAP");
    expect(&reply, take(mmiod->socket, &reply), MMIOD_MSG_ACK, sizeof(struct mmiod_msg_ack));
    close(descriptor);
}

static void store(uint8_t space, uint64_t address, uint16_t size, uint64_t value)
{
    union reply reply;
    struct mmiod_msg_exit_decoded write = {
        .header = { sizeof(write), MMIOD_MSG_EXIT_DECODED, 0 },
        .exit = { .sequence = ++mmiod->sequence },
        .address = address,
        .value = value,
        .space = space,
        .direction = MMIOD_DIRECTION_WRITE,
        .size = size,
        .count = 1,
    };
    give(mmiod->socket, &write, sizeof(write));
    expect(&reply, take(mmiod->socket, &reply), MMIOD_MSG_VALUES, sizeof(reply.values));
}

static void place_function(void)
{
    store(MMIOD_SPACE_PCI_CONFIG, FUNCTION | BAR0, 4, BASE);
    store(MMIOD_SPACE_PCI_CONFIG, FUNCTION | COMMAND, 2, MEMORY_SPACE);
    store(MMIOD_SPACE_MMIO, BASE + SCRATCH, 4, PATTERN);
}

/* --- what is measured ---------------------------------------------------------------- */

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t round_trip(struct peer *peer, const struct kind *kind)
{
    union reply reply;
    *kind->sequence = ++peer->sequence;
    uint64_t start = now_ns();
    give(peer->socket, kind->message, kind->size);
    size_t size = take(peer->socket, &reply);
    uint64_t took = now_ns() - start;

    if (peer == echo) {
        if (size != kind->completion_size)
            errx(1, "the echo has %zu bytes instead of %zu", size, kind->completion_size);
        return took;
    }
    expect(&reply, size, kind->completion, kind->completion_size);
    if (!kind->right(&reply))
        errx(1, "mmiod completed a %s exit with a wrong value", kind->name);
    return took;
}

static void measure(struct peer *peer, const struct kind *kind, unsigned int count)
{
    for (unsigned int i = 0; i < count; i++)
        samples[i] = round_trip(peer, kind);
    if (fwrite(samples, sizeof(samples[0]), count, stdout) != count || fflush(stdout) != 0)
        err(1, "standard output");
}

static struct peer *peer_called(const char *name)
{
    for (size_t i = 0; i < sizeof(peers) / sizeof(peers[0]); i++)
        if (strcmp(peers[i].name, name) == 0)
            return &peers[i];
    errx(1, "no peer is called %s", name);
}

static const struct kind *kind_called(const char *name)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    errx(1, "no exit is called %s", name);
}

int main(int argc, char **argv)
{
    char peer[16], kind[16];
    unsigned int count;

    if (argc != 4)
        errx(2, "usage: client EXIT_SOCKET VM ECHO_DESCRIPTOR");
    dial(argv[1]);
    echo->socket = atoi(argv[3]);
    be_impatient(mmiod->socket);
    be_impatient(echo->socket);
    say_hello(argv[2]);
    map_memory();
    place_function();
    while (scanf("%15s %15s %u", peer, kind, &count) == 3) {
        if (count > MAX_COUNT)
            errx(1, "at most %u round trips at once", MAX_COUNT);
        measure(peer_called(peer), kind_called(kind), count);
    }
    return 0;
}
