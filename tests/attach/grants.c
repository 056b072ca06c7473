/*
 * A client that takes grants, without a guest: grants EXIT_SOCKET VM SCENARIO.
 * It prints what it observes; tests/functional/test_c_grants.py knows what that must be.
 */
#ifndef _GNU_SOURCE /* g++ has it */
#define _GNU_SOURCE
#endif
#include "mmiod_exit.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#define PANEL 0xe2000000u /* its page, and behind that the region with the doorbell */
#define VALUE (PANEL + 0x10)
#define COUNT (PANEL + 0x1008)
#define ENTROPY (5u << 15) /* 00:05.0 */

static struct mmiod_client client;
static struct mmiod_shared shared;
static struct mmiod_fixtures fixtures;
static const uint8_t *page; /* NULL: it does not stand */
static int bells;

static int must(int result)
{
    if (result >= 0)
        return result;
    fprintf(stderr, "%s; %.40s: %.120s\n", strerror(-result), client.error.name, client.error.reason);
    exit(1);
}

/* In the place of a kernel. */
static int change(void *context, const struct mmiod_fixture *fixture, uint32_t place, int stands)
{
    const struct mmiod_msg_grant *grant = &fixture->grant;

    (void)context;
    if (place >= MMIOD_FIXTURES || (fixture->page == NULL) != (fixture->doorbell >= 0))
        exit(3);
    if (fixture->page) {
        page = stands ? (const uint8_t *)fixture->page : NULL;
        printf("%s page %" PRIx64 "\n", stands ? "+" : "-", grant->address);
    } else {
        bells += stands ? 1 : -1;
        printf("%s bell %u %" PRIx64 " %u %" PRIu64 "\n", stands ? "+" : "-", grant->space, grant->address,
               grant->size, grant->value);
    }
    fflush(stdout);
    return 0;
}

static uint64_t ask(uint64_t address)
{
    uint64_t value;
    must(mmiod_read(&client, MMIOD_SPACE_MMIO, address, 4, &value));
    return value;
}

static void tell(uint64_t address, uint64_t value)
{
    must(mmiod_write(&client, MMIOD_SPACE_MMIO, address, 4, value));
}

static void configure(uint32_t reg, uint16_t size, uint64_t value)
{
    must(mmiod_write(&client, MMIOD_SPACE_PCI_CONFIG, ENTROPY | reg, size, value));
}

/* The daemon is heard whenever the client waits. */
static void hear(void)
{
    must(mmiod_tick(&client));
    must(mmiod_poll(&client));
}

static void until_count(uint64_t count)
{
    while (ask(COUNT) < count)
        ;
    printf("rung\n");
}

static uint32_t in_page(uint32_t offset)
{
    uint32_t value;
    memcpy(&value, page + offset, sizeof(value));
    return value;
}

static void read_page(void)
{
    uint32_t wrong = 0, n;

    for (n = 1; n < 200; n++) {
        tell(VALUE, n);
        wrong += in_page(0x20) != 2 * n;
    }
    printf("%u wrong, hole %x\n", wrong, in_page(0x80));
}

static void ring(void)
{
    mmiod_fixtures_ring(&fixtures);
    until_count(1);
}

/* What was rung may not have been heard by a daemon that is gone. */
static void reconnect(void)
{
    shutdown(client.socket, SHUT_RDWR);
    until_count(1);
}

static void control(uint16_t type)
{
    struct mmiod_msg_pause pause;

    memset(&pause, 0, sizeof(pause));
    pause.header.size = sizeof(pause);
    pause.header.type = type;
    must(mmiod_request(&client, &pause, -1));
}

static struct mmiod_msg_restore saved; /* asks for what `state` has */
static int state;

static void save(void)
{
    control(MMIOD_MSG_PAUSE);
    control(MMIOD_MSG_SAVE);
    saved.header.size = sizeof(saved);
    saved.header.type = MMIOD_MSG_RESTORE;
    saved.length = client.in.ack.value;
    state = dup(client.descriptor);
    control(MMIOD_MSG_RESUME);
}

static void restore(void)
{
    control(MMIOD_MSG_PAUSE);
    must(mmiod_request(&client, &saved, state));
    close(state);
    control(MMIOD_MSG_RESUME);
}

/* No saved state has it. */
static void save_and_restore(void)
{
    save();
    restore();
    until_count(1);
}

static void place(uint64_t address)
{
    configure(0x10, 4, address);
    configure(0x04, 2, 2);
    hear();
}

/* A BAR is put back, and what its doorbell heard there before is in no state either. */
static void move_back(void)
{
    uint64_t signals;

    place(0xe8000000);
    save();
    place(0xe9000000);
    restore();
    hear();
    must(read(fixtures.places[2].doorbell, &signals, sizeof(signals)) == sizeof(signals) ? 0 : -errno);
    printf("signals %" PRIu64 "\n", signals);
}

/* A BAR of a function is placed, moved, and gone after a reset. */
static void move(void)
{
    place(0xe8000000);
    place(0xe9000000);
    must(mmiod_reset(&client, MMIOD_MACHINE));
}

static void offer(uint32_t number, uint8_t kind, uint64_t value, int descriptor)
{
    struct mmiod_msg_grant grant = fixtures.places[0].grant;

    grant.number = number;
    grant.kind = kind;
    grant.value = value;
    printf("%d\n", mmiod_fixture_put(&fixtures, &grant, descriptor) == -EPROTO);
}

/* What no daemon grants. */
static void refuse(void)
{
    offer(0, MMIOD_GRANT_KIND_PAGE, 0, -1);
    offer(9, MMIOD_GRANT_KIND_PAGE, shared.length, -1);
    offer(9, MMIOD_GRANT_KIND_DOORBELL, 0, -1);
    offer(9, MMIOD_GRANT_KIND_DOORBELL + 1, 0, dup(1));
}

/* There are descriptors for half of it: none is left open. */
static void starve(void)
{
    struct mmiod_shared another;
    int lowest = dup(1);
    struct rlimit limit = {(rlim_t)lowest + 2, (rlim_t)lowest + 2};

    close(lowest);
    setrlimit(RLIMIT_NOFILE, &limit);
    printf("%d ", mmiod_shared_init(&another, shared.descriptors[0], 2) == -EMFILE);
    printf("%d\n", dup(1) == lowest);
}

/* Without a connection nobody is waited for: the exit is in a slot that no daemon looks at. */
static void leave(void)
{
    int memfd = memfd_create("dead", MFD_CLOEXEC);

    must(ftruncate(memfd, 2 * MMIOD_SHARED_PAGE));
    mmiod_shared_close(&shared);
    must(mmiod_shared_init(&shared, memfd, 1));
    mmiod_begin(&client, MMIOD_MSG_EXIT_TICK);
    mmiod_slot_post(&shared, 0, &client.out, client.out.header.size);
    client.pending = client.in_slot = 1;
    client.patience_ms = 0;
    mmiod_close(&client);
    printf("%d\n", mmiod_complete(&client) == -ECONNRESET);
    close(memfd);
}

/* Until a line comes: somebody looks at the traffic meanwhile. */
static void listen_on(void)
{
    struct pollfd input = {0, POLLIN, 0};

    while (poll(&input, 1, 1) <= 0)
        hear();
    hear(); /* what came before the line */
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } scenarios[] = {{"page", read_page}, {"doorbell", ring},    {"reconnect", reconnect}, {"restore", save_and_restore},
                     {"move", move},      {"watched", listen_on}, {"unused", listen_on},       {"move back", move_back},
                     {"refuse", refuse},  {"starve", starve},     {"leave", leave}};
    int memfd = memfd_create("slots", MFD_ALLOW_SEALING | MFD_CLOEXEC);

    if (argc != 4)
        return 2;
    mmiod_client_init(&client, argv[1], argv[2]);
    client.patience_ms = 20000;
    client.hello.required = MMIOD_CAPABILITY_SHARED_MEMORY | MMIOD_CAPABILITY_PUBLISHED | MMIOD_CAPABILITY_GRANTS |
                            MMIOD_CAPABILITY_SAVE;
    fixtures.change = change;
    if (strcmp(argv[3], "unused") != 0)
        client.fixtures = &fixtures;
    must(mmiod_open(&client));
    must(ftruncate(memfd, 2 * MMIOD_SHARED_PAGE + MMIOD_PUBLISHED_BYTES + MMIOD_PAGES_BYTES));
    must(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK));
    must(mmiod_share(&client, &shared, memfd));
    hear(); /* powers the machine on */
    for (size_t n = 0; n < sizeof(scenarios) / sizeof(*scenarios); n++)
        if (strcmp(scenarios[n].name, argv[3]) == 0)
            scenarios[n].run();
    mmiod_close(&client);
    mmiod_shared_close(&shared);
    close(memfd);
    return 0;
}
