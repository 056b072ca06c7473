/*
 * A client of published registers: published EXIT_SOCKET VM SCENARIO.
 * It prints what it observes; tests/functional/test_c_published.py knows what that must be.
 */
#define _GNU_SOURCE
#include "mmiod_exit.h"
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define UART 0x3f8u
#define DLL UART
#define THR UART
#define IER (UART + 1)
#define LCR (UART + 3)
#define LSR (UART + 5)
#define SCR (UART + 7)
#define CF8 0xcf8u
#define CFC 0xcfcu
#define PM (1u << 15 | 3u << 12) /* 00:01.3 */
#define TIMES 5000u


static struct mmiod_client client, other;
static struct mmiod_shared shared;
static struct mmiod_view view, other_view;
static _Atomic uint32_t turn;

static int must(int result)
{
    if (result >= 0)
        return result;
    fprintf(stderr, "%s; %.40s: %.120s\n", strerror(-result), client.error.name, client.error.reason);
    exit(1);
}

static void attach(const char *path, const char *vm)
{
    int memfd = memfd_create("slots", MFD_ALLOW_SEALING | MFD_CLOEXEC);

    mmiod_client_init(&client, path, vm);
    client.patience_ms = 20000;
    client.hello.vcpus = 2;
    client.hello.required = MMIOD_CAPABILITY_SHARED_MEMORY | MMIOD_CAPABILITY_PUBLISHED;
    must(mmiod_open(&client));
    must(ftruncate(memfd, 3 * MMIOD_SHARED_PAGE + MMIOD_PUBLISHED_BYTES));
    must(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK));
    must(mmiod_share(&client, &shared, memfd));
    mmiod_client_join(&other, &client, 1);
    must(mmiod_open(&other));
    client.view = &view;
    other.view = &other_view;
    must(mmiod_tick(&client)); /* powers the machine on */
}

static void store(uint64_t port, uint16_t size, uint64_t value)
{
    must(mmiod_store(&client, MMIOD_SPACE_PIO, port, size, value));
}

static uint64_t load(uint64_t port, uint16_t size)
{
    uint64_t value;
    must(mmiod_load(&client, MMIOD_SPACE_PIO, port, size, &value));
    return value;
}

static uint64_t ask(uint8_t space, uint64_t address, uint16_t size)
{
    uint64_t value;
    must(mmiod_read(&client, space, address, size, &value));
    return value;
}

/* Values without a message, and those that need one. */
static void reads(void)
{
    uint64_t sequence = client.sequence;

    printf("LSR %" PRIx64 ", SCR %" PRIx64 ", port 70h %" PRIx64 "\n", load(LSR, 1), load(SCR, 1),
           load(0x70, 1));
    printf("%" PRIu64 " messages\n", client.sequence - sequence);
    load(UART, 1); /* RBR: reading it takes the character */
    load(SCR, 2);  /* as the UART takes single bytes, a word is split */
    printf("%" PRIu64 " messages\n", client.sequence - sequence);
}

/* The order that one vCPU's program has; and a bank that a posted write selects. */
static void order(void)
{
    uint32_t wrong = 0;

    for (uint32_t n = 0; n < TIMES; n++) {
        store(SCR, 1, n & 0xff);
        wrong += load(SCR, 1) != (n & 0xff);
        store(LCR, 1, 0x80 | (n & 0x3f));
        store(DLL, 1, n >> 3 & 0xff);
        wrong += load(DLL, 1) != (n >> 3 & 0xff);
        wrong += load(LCR, 1) != (0x80 | (n & 0x3f));
        store(LCR, 1, 3);
        store(IER, 1, n & 1);
        wrong += load(IER, 1) != (n & 1);
    }
    printf("%u wrong; some posts: %d, some loads: %d\n", wrong, view.posts > TIMES, view.loads > TIMES);
}

/* Configuration space through CF8h and CFCh: all of bus 0, in all sizes. */
static void config(void)
{
    uint64_t sequence, messages = 0, asked = 0;
    uint32_t wrong = 0;

    for (uint32_t at = 0; at < 1u << 20; at += at % 4096 < 0x40 ? 4 : 4096 - 0x40) {
        uint32_t select = 0x80000000u | at >> 12 << 8 | (at & 0xfc);
        for (uint16_t size = 1; size <= 4; size = (uint16_t)(2 * size)) {
            uint64_t seen;
            sequence = client.sequence;
            store(CF8, 4, select);
            seen = load(CFC + 4 - size, size);
            messages += client.sequence - sequence;
            wrong += seen != ask(MMIOD_SPACE_PCI_CONFIG, at + 4 - size, size);
            asked++;
        }
    }
    store(CF8, 4, 0);
    wrong += load(CFC, 4) != 0xffffffff; /* CFGE is clear */
    printf("%" PRIu64 " reads, %u wrong, few messages: %d\n", asked, wrong, messages < asked / 50);
}

/* A timer is where a message before and one after it say that it is; and where it is not any more. */
static void counter(void)
{
    uint32_t wrong = 0;
    uint64_t before, seen, after, sequence;

    must(mmiod_write(&client, MMIOD_SPACE_PCI_CONFIG, PM | 0x40, 4, 0x601));
    must(mmiod_write(&client, MMIOD_SPACE_PCI_CONFIG, PM | 0x80, 1, 1));
    for (uint32_t n = 0; n < TIMES / 10; n++) {
        before = ask(MMIOD_SPACE_PIO, 0x608, 4);
        seen = load(0x608, 4);
        after = ask(MMIOD_SPACE_PIO, 0x608, 4);
        wrong += ((seen - before) & 0xffffff) > ((after - before) & 0xffffff);
    }
    sequence = client.sequence;
    load(0x608, 4);
    printf("%u wrong, %" PRIu64 " messages\n", wrong, client.sequence - sequence);
    must(mmiod_write(&client, MMIOD_SPACE_PCI_CONFIG, PM | 0x40, 4, 0x701));
    printf("%" PRIx64 " where it was\n", load(0x608, 4));
    sequence = client.sequence;
    load(0x708, 4);
    printf("%" PRIu64 " messages where it is\n", client.sequence - sequence);
}

static void *see(void *wrong)
{
    for (uint32_t n = 1; n <= TIMES; n++) {
        uint64_t value = 0;
        while (atomic_load(&turn) != 2 * n - 1)
            sched_yield(); /* the daemon, too, needs a CPU */
        must(n & 1 ? mmiod_load(&other, MMIOD_SPACE_PIO, SCR, 1, &value)
                   : mmiod_read(&other, MMIOD_SPACE_PIO, SCR, 1, &value));
        *(uint32_t *)wrong += value != (n & 0xff);
        atomic_store(&turn, 2 * n);
    }
    return NULL;
}

/* What one vCPU posted before it told another one: that one sees it, in the page and by message. */
static void vcpus(void)
{
    uint32_t wrong = 0;
    pthread_t thread;

    pthread_create(&thread, NULL, see, &wrong);
    for (uint32_t n = 1; n <= TIMES; n++) {
        store(SCR, 1, n & 0xff);
        atomic_store(&turn, 2 * n - 1);
        while (atomic_load(&turn) != 2 * n)
            sched_yield();
    }
    pthread_join(thread, NULL);
    printf("%u wrong, posted: %d\n", wrong, view.posts > TIMES / 2);
}

/* While the VM is paused nothing is shown, and then again. */
static void paused(void)
{
    struct mmiod_msg_pause pause;
    uint64_t value;

    memset(&pause, 0, sizeof(pause));
    pause.header.size = sizeof(pause);
    pause.header.type = MMIOD_MSG_PAUSE;
    must(mmiod_request(&client, &pause, -1));
    printf("%d", mmiod_read_published(&client, MMIOD_SPACE_PIO, LSR, 1, &value));
    pause.header.type = MMIOD_MSG_RESUME;
    must(mmiod_request(&client, &pause, -1));
    printf(" %d\n", mmiod_read_published(&client, MMIOD_SPACE_PIO, LSR, 1, &value));
}

/* For each line that comes: how many messages a published register needs. */
static void asked(void)
{
    char line[8];

    while (fgets(line, sizeof(line), stdin)) {
        uint64_t sequence = client.sequence;
        load(SCR, 1);
        printf("%" PRIu64 "\n", client.sequence - sequence);
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } scenarios[] = {{"reads", reads},     {"order", order}, {"config", config},
                     {"counter", counter}, {"vcpus", vcpus}, {"paused", paused}, {"asked", asked}};

    if (argc != 4)
        return 2;
    attach(argv[1], argv[2]);
    for (size_t n = 0; n < sizeof(scenarios) / sizeof(*scenarios); n++)
        if (strcmp(scenarios[n].name, argv[3]) == 0)
            scenarios[n].run();
    return 0;
}
