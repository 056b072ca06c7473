/*
 * A client of everything that the exit protocol is compared with.
 *
 *     peers NAME=KIND:DESCRIPTOR[:REQUEST:REPLY] ...
 *
 * KIND is
 *     echo       a stream or seqpacket socket, REQUEST and REPLY bytes each way
 *     spin       a memfd in which both sides spin on a word (echo.c)
 *     vfio-user  a negotiated vfio-user connection: 4 bytes at offset 0 of region 0 are read
 *     qtest      QEMU's test protocol: readl of address 0
 * The sockets are connected by who starts this; commands are those of commands.h.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "commands.h"

#define PATIENCE_S 20
#define MAX_PEERS 8
#define SPIN_LENGTH 4096
#define VFIO_USER_REGION_READ 9 /* libvfio-user docs/vfio-user.rst */
#define VFIO_USER_REPLY 1
#define SPINS 1000000000u

struct region_access {
    uint16_t id, command;
    uint32_t size, flags, error;
    uint64_t offset;
    uint32_t region, count;
};

struct peer {
    char kind[16];
    int descriptor;
    unsigned int request, reply;
    _Atomic uint32_t *word;
};

static struct peer peers[MAX_PEERS];
static const struct peer *now; /* the one that is asked */
static char buffer[4096];

static void give(const void *bytes, size_t length)
{
    if (send(now->descriptor, bytes, length, MSG_NOSIGNAL) != (ssize_t)length)
        err(1, "send");
}

static size_t take(size_t room)
{
    ssize_t length = recv(now->descriptor, buffer, room, 0);
    if (length < 0)
        err(1, "recv");
    if (length == 0)
        errx(1, "a server closed the connection");
    return (size_t)length;
}

static void echo(void)
{
    const uint32_t head[2] = { now->request, now->reply };
    memcpy(buffer, head, sizeof(head));
    give(buffer, now->request);
    for (size_t length = 0; length < now->reply; )
        length += take(sizeof(buffer));
}

static void spin(void)
{
    atomic_store_explicit(now->word, 1, memory_order_release);
    for (unsigned int i = 0; atomic_load_explicit(now->word, memory_order_acquire) != 0; i++)
        if (i == SPINS)
            errx(1, "the other side does not spin");
}

static void read_region(void)
{
    static struct region_access access = { .command = VFIO_USER_REGION_READ, .size = sizeof(access), .count = 4 };
    struct region_access reply;

    access.id++;
    give(&access, access.size);
    if (take(sizeof(buffer)) != sizeof(reply) + 4)
        errx(1, "vfio-user: the reply is not %zu bytes", sizeof(reply) + 4);
    memcpy(&reply, buffer, sizeof(reply));
    if (reply.id != access.id || reply.flags != VFIO_USER_REPLY || reply.count != 4)
        errx(1, "vfio-user: the reply to REGION_READ has flags %#x", reply.flags);
}

static void read_qtest(void)
{
    give("readl 0x0\n", 10);
    if (buffer[take(sizeof(buffer)) - 1] != '\n' || memcmp(buffer, "OK", 2) != 0)
        errx(1, "qtest: %.40s", buffer);
}

static const struct trip kinds[] = {
    { "echo", echo, NULL }, { "spin", spin, NULL }, { "vfio-user", read_region, NULL }, { "qtest", read_qtest, NULL },
};

static void be_impatient(int socket)
{
    struct timeval patience = { .tv_sec = PATIENCE_S };
    if (setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
        err(1, "SO_RCVTIMEO");
}

static void understand(struct peer *peer, char *name, const char *text)
{
    int parts = sscanf(text, "%31[^=]=%15[^:]:%d:%u:%u", name, peer->kind, &peer->descriptor,
                       &peer->request, &peer->reply);
    if (parts != 3 && (parts != 5 || peer->request > sizeof(buffer) || peer->reply > sizeof(buffer)))
        errx(2, "%s is not NAME=KIND:DESCRIPTOR[:REQUEST:REPLY]", text);
    if (strcmp(peer->kind, "spin") != 0) {
        be_impatient(peer->descriptor);
        return;
    }
    peer->word = mmap(NULL, SPIN_LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, peer->descriptor, 0);
    if (peer->word == MAP_FAILED)
        err(1, "mmap");
}

int main(int argc, char **argv)
{
    static char names[MAX_PEERS][32];
    char name[32];
    unsigned int count;
    long gap_ns;

    if (argc < 2 || argc - 1 > MAX_PEERS)
        errx(2, "usage: peers NAME=KIND:DESCRIPTOR[:REQUEST:REPLY] ...");
    for (int i = 1; i < argc; i++)
        understand(&peers[i - 1], names[i - 1], argv[i]);
    while (next_command(name, &count, &gap_ns)) {
        int which = 0;
        while (which < argc - 1 && strcmp(names[which], name) != 0)
            which++;
        if (which == argc - 1)
            errx(1, "no peer is called %s", name);
        now = &peers[which];
        make_trips(trip_called(kinds, sizeof(kinds) / sizeof(kinds[0]), now->kind), count, gap_ns);
        tell(count);
    }
    return 0;
}
