/*
 * A client whose exits go through shared memory: slots EXIT_SOCKET VM SCENARIO [SPIN].
 * It prints what it observes; tests/functional/test_c_slots.py knows what that must be.
 */
#define _GNU_SOURCE
#include "mmiod_exit.h"
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#define FUNCTION (3u << 15) /* 00:03.0: devices/pci/testdev.py tells its registers */
#define BAR 0xfebf0000u
#define RAM_BAR 0xfeb00000u
#define SCRATCH (BAR + 0x04)
#define COUNT (BAR + 0x10)
#define VCPUS 2
#define TIMES 2000

/* Shared with children, so that a parent goes on where one was killed. */
static struct mmiod_client *client;
static struct mmiod_shared shared;

static int must(int result)
{
    if (result >= 0)
        return result;
    fprintf(stderr, "%s; %.40s: %.120s\n", strerror(-result), client->error.name, client->error.reason);
    exit(1);
}

static void put(uint64_t address, uint16_t size, uint64_t value, uint8_t space)
{
    must(mmiod_write(client, space, address, size, value));
}

static uint64_t get(struct mmiod_client *who, uint64_t address)
{
    uint64_t value;
    must(mmiod_read(who, MMIOD_SPACE_MMIO, address, 4, &value));
    return value;
}

static void attach(const char *path, const char *vm)
{
    int memfd = memfd_create("slots", MFD_ALLOW_SEALING | MFD_CLOEXEC);

    mmiod_client_init(client, path, vm);
    client->patience_ms = 20000;
    client->hello.vcpus = VCPUS;
    client->hello.required = MMIOD_CAPABILITY_SHARED_MEMORY;
    must(mmiod_open(client));
    put(FUNCTION | 0x10, 4, BAR, MMIOD_SPACE_PCI_CONFIG);
    put(FUNCTION | 0x18, 4, RAM_BAR, MMIOD_SPACE_PCI_CONFIG);
    put(FUNCTION | 0x04, 2, 2, MMIOD_SPACE_PCI_CONFIG);
    must(ftruncate(memfd, MMIOD_SHARED_PAGE * (1 + VCPUS)));
    must(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK));
    must(mmiod_share(client, &shared, memfd));
}

/* Elements in the slot, elements that only fit a message, instructions. */
static void exits(void)
{
    static char forth[2000], back[2000];
    struct mmiod_vcpu vcpu;
    const uint8_t load[] = {0x8b, 0x03}; /* mov eax, [ebx] */

    put(SCRATCH, 4, 0x12345678, MMIOD_SPACE_MMIO);
    printf("%" PRIx64 "\n", get(client, SCRATCH));
    strcpy(forth + sizeof(forth) - 8, "the end");
    must(mmiod_access(client, MMIOD_SPACE_MMIO, MMIOD_DIRECTION_WRITE, RAM_BAR, 1, sizeof(forth), 1, forth));
    must(mmiod_access(client, MMIOD_SPACE_MMIO, MMIOD_DIRECTION_READ, RAM_BAR, 1, sizeof(back), 1, back));
    printf("%s\n", back + sizeof(back) - 8);
    memset(&vcpu, 0, sizeof(vcpu));
    vcpu.cr0 = 1;
    vcpu.rip = 0x1000;
    vcpu.rflags = 2;
    vcpu.gpr[3] = SCRATCH;
    for (int n = 0; n < 6; n++)
        vcpu.segments[n] = (struct mmiod_segment){0, 0xffffffff, 8, n == 1 ? 0xc09b : 0xc093};
    for (int n = 0; n < 2; n++) {
        struct mmiod_msg_exit_raw *raw = mmiod_raw(client, &vcpu, load, sizeof(load));
        raw->header.flags = MMIOD_EXIT_RAW_FLAG_GPA;
        raw->gpa = SCRATCH;
        must(mmiod_exchange(client));
        mmiod_apply(&vcpu, &client->in);
        printf("rax %" PRIx64 " rip %" PRIx64 "\n", vcpu.gpr[0], vcpu.rip);
    }
}

static void posted(void)
{
    for (uint32_t n = 1; n <= TIMES; n++)
        must(mmiod_post(client, MMIOD_SPACE_MMIO, SCRATCH, 4, n));
    printf("%" PRIu64 "\n", get(client, SCRATCH));
    must(mmiod_post(client, MMIOD_SPACE_MMIO, COUNT, 4, 0));
    printf("%" PRIu64 "\n", get(client, COUNT));
}

static void *count(void *who)
{
    uint64_t sum = 0;
    for (int n = 0; n < TIMES; n++)
        sum += get(who, COUNT);
    return (void *)(uintptr_t)sum;
}

/* Two vCPUs count at once: each number is seen by one of them. */
static void threads(void)
{
    struct mmiod_client *other = calloc(1, sizeof(*other));
    pthread_t thread;
    void *sum;
    uint64_t all;

    mmiod_client_join(other, client, 1);
    must(mmiod_open(other));
    pthread_create(&thread, NULL, count, other);
    all = (uintptr_t)count(client);
    pthread_join(thread, &sum);
    all += (uintptr_t)sum;
    printf("%d\n", all == (uint64_t)(2 * TIMES) * (2 * TIMES - 1) / 2);
    mmiod_close(other);
    free(other);
}

/* A connection that breaks between exits, and one that breaks while one is outstanding. */
static void reconnect(void)
{
    printf("%" PRIu64 "\n", get(client, COUNT));
    shutdown(client->socket, SHUT_RDWR);
    printf("%" PRIu64 "\n", get(client, COUNT));
    must(mmiod_post(client, MMIOD_SPACE_MMIO, SCRATCH, 4, 77));
    shutdown(client->socket, SHUT_RDWR);
    printf("%" PRIu64 "\n", get(client, SCRATCH));
    printf("%" PRIu64 "\n", get(client, COUNT));
    printf("in the slot again: %d\n", client->share == shared.shares);
}

/* The client is killed behind its exit; whoever has its books goes on. */
static void killed(void)
{
    for (int turn = 0; turn < 20; turn++) {
        pid_t child = fork();
        if (child == 0) {
            union mmiod_message *out = mmiod_begin(client, MMIOD_MSG_EXIT_DECODED);
            out->exit_decoded.address = COUNT;
            out->exit_decoded.size = 4;
            out->exit_decoded.count = 1;
            out->exit_decoded.exit.sequence = ++client->sequence;
            client->pending = client->in_slot = 1;
            mmiod_slot_post(&shared, 0, out, out->header.size);
            for (volatile int wait = turn * 200; wait > 0; wait--)
                ;
            kill(getpid(), SIGKILL);
        }
        waitpid(child, NULL, 0);
        mmiod_close(client);
        must(mmiod_open(client));
        must(mmiod_complete(client));
        if (client->in.values.value != (uint64_t)turn)
            printf("turn %d: %" PRIu64 "\n", turn, client->in.values.value);
    }
    printf("%" PRIu64 "\n", get(client, COUNT));
}

/* A child that closes what it has of the client takes nothing from its parent's ear. */
static void forked(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    static struct mmiod_client copy;
    pid_t child;

    client->spin = 0;
    while (!client->heard) /* it has slept since */
        get(client, COUNT);
    child = fork();
    if (child == 0) {
        copy = *client;
        mmiod_close(&copy);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    printf("%d\n", epoll_ctl(shared.descriptors[2], EPOLL_CTL_ADD, client->socket, &event) < 0 && errno == EEXIST);
}

int main(int argc, char **argv)
{
    const struct { const char *name; void (*run)(void); } scenarios[] = {
        {"exits", exits}, {"posted", posted}, {"threads", threads}, {"reconnect", reconnect}, {"killed", killed},
        {"forked", forked},
    };

    client = mmap(NULL, sizeof(*client), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (argc < 4 || client == MAP_FAILED)
        return 2;
    attach(argv[1], argv[2]);
    if (argc > 4)
        client->spin = (uint32_t)atoi(argv[4]);
    for (size_t n = 0; n < sizeof(scenarios) / sizeof(scenarios[0]); n++)
        if (strcmp(argv[3], scenarios[n].name) == 0)
            scenarios[n].run();
    mmiod_close(client);
    mmiod_shared_close(&shared);
    return 0;
}
