/*
 * Many vCPUs in one thread, each with an exit outstanding all the time.
 *
 *     load DIRECTORY VMS VCPUS sockets|slots
 *
 * It opens a session with vm0 to vmN (DIRECTORY/NAME.exit), of which vm0 has VCPUS vCPUs.  A
 * command is WHO N COUNT: WHO is vcpus (the first N of vm0) or vms (vCPU 0 of the first N); COUNT
 * exits are completed in all.  The answer is one uint64_t, the ns that they took, and COUNT more, ns
 * each.  By sockets the client sleeps until there is an answer, by slots it looks at all of them
 * without a pause.
 */
#define _GNU_SOURCE
#include <sys/epoll.h>

#include "commands.h"
#include "session.h"

#define MAX_CHANNELS 64

struct channel {
    struct mmiod_client *client;
    struct mmiod_shared *shared; /* NULL: by socket */
    union mmiod_message *exit;
    uint64_t started;
};

static struct channel vcpus[MAX_CHANNELS], vms[MAX_CHANNELS];

static void ask(struct channel *channel)
{
    struct mmiod_msg_exit_decoded *out = &channel->exit->exit_decoded;

    out->exit.sequence = ++channel->client->sequence;
    channel->started = now_ns();
    if (channel->shared)
        mmiod_slot_post(channel->shared, out->exit.vcpu, out, sizeof(*out));
    else
        want(channel->client, mmiod_send(channel->client, out, -1), "send");
}

static void check(const union mmiod_message *answer)
{
    if (answer->header.type != MMIOD_MSG_VALUES || answer->values.value != PATTERN)
        errx(1, "an exit was completed by message %u", answer->header.type);
}

static void received(struct channel *channel)
{
    want(channel->client, mmiod_take(channel->client, 0), "receive");
    check(&channel->client->in);
}

/* Whether there was an answer in the slot. */
static int seen(struct channel *channel)
{
    uint32_t vcpu = channel->client->vcpu;
    uint32_t state = mmiod_slot_state(channel->shared, vcpu);

    if (state == MMIOD_SHARED_STATE_READY || state == MMIOD_SHARED_STATE_FREE)
        return 0;
    if (state != MMIOD_SHARED_STATE_COMPLETE)
        errx(1, "a slot is in state %u", state);
    check((const void *)mmiod_slot(channel->shared, vcpu)->completion);
    mmiod_slot(channel->shared, vcpu)->state = MMIOD_SHARED_STATE_FREE;
    return 1;
}

static int watching(struct channel *channels, unsigned int length)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);

    for (unsigned int i = 0; i < length; i++) {
        struct epoll_event event = { .events = EPOLLIN, .data.u32 = i };
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, channels[i].client->socket, &event) < 0)
            err(1, "epoll_ctl");
    }
    return epoll;
}

/* The next channels that have an answer. */
static unsigned int answered(struct channel *channels, unsigned int length, int epoll, unsigned int *which)
{
    struct epoll_event ready[MAX_CHANNELS];
    unsigned int found = 0;
    uint64_t end = now_ns() + PATIENCE_S * 1000000000ull;

    if (channels[0].shared) {
        for (unsigned int turn = 0; !found; turn++) {
            for (unsigned int i = 0; i < length; i++)
                if (seen(&channels[i]))
                    which[found++] = i;
            if (turn % 65536 == 65535 && now_ns() > end)
                errx(1, "no completion within %d s", PATIENCE_S);
        }
        return found;
    }
    int events = epoll_wait(epoll, ready, MAX_CHANNELS, PATIENCE_S * 1000);
    if (events <= 0)
        err(1, "no completion within %d s", PATIENCE_S);
    for (; found < (unsigned int)events; found++) {
        which[found] = ready[found].data.u32;
        received(&channels[which[found]]);
    }
    return found;
}

static uint64_t keep_busy(struct channel *channels, unsigned int length, unsigned int count)
{
    unsigned int asked = 0, taken = 0, which[MAX_CHANNELS];
    int epoll = watching(channels, length);
    uint64_t begin = now_ns();

    for (; asked < length && asked < count; asked++)
        ask(&channels[asked]);
    while (taken < count) {
        unsigned int found = answered(channels, length, epoll, which);
        for (unsigned int i = 0; i < found; i++) {
            samples[taken++] = now_ns() - channels[which[i]].started;
            if (asked < count) {
                ask(&channels[which[i]]);
                asked++;
            }
        }
    }
    uint64_t took = now_ns() - begin;
    close(epoll);
    return took;
}

static void *zeros(size_t size)
{
    void *memory = calloc(1, size);
    if (!memory)
        err(1, "calloc");
    return memory;
}

static struct channel channel_of(struct mmiod_client *client, struct mmiod_shared *shared)
{
    struct channel channel = { .client = client, .shared = shared, .exit = zeros(sizeof(*channel.exit)) };
    struct mmiod_msg_exit_decoded *out = &channel.exit->exit_decoded;

    out->header.size = sizeof(*out);
    out->header.type = MMIOD_MSG_EXIT_DECODED;
    out->exit.vcpu = client->vcpu;
    out->address = SCRATCH;
    out->space = MMIOD_SPACE_MMIO;
    out->direction = MMIOD_DIRECTION_READ;
    out->size = 4;
    out->count = 1;
    return channel;
}

static void open_all(const char *directory, int vm_count, int vcpu_count, int slots)
{
    static char paths[MAX_CHANNELS][108];
    char name[16];

    for (int i = 0; i < vm_count; i++) {
        struct mmiod_shared *shared = slots ? zeros(sizeof(*shared)) : NULL;
        struct mmiod_client *client = zeros(sizeof(*client));
        snprintf(name, sizeof(name), "vm%d", i);
        snprintf(paths[i], sizeof(paths[i]), "%.80s/%.15s.exit", directory, name);
        open_session(client, paths[i], name, i == 0 ? (uint32_t)vcpu_count : 1, shared);
        vms[i] = channel_of(client, shared);
    }
    vcpus[0] = vms[0];
    for (int i = 1; i < vcpu_count; i++) {
        struct mmiod_client *client = zeros(sizeof(*client));
        mmiod_client_join(client, vms[0].client, (uint32_t)i);
        want(client, mmiod_open(client), "join");
        vcpus[i] = channel_of(client, vms[0].shared);
    }
}

int main(int argc, char **argv)
{
    char who[16];
    unsigned int length, count;

    if (argc != 5 || atoi(argv[2]) > MAX_CHANNELS || atoi(argv[3]) > MAX_CHANNELS || strlen(argv[1]) > 80)
        errx(2, "usage: load DIRECTORY VMS VCPUS sockets|slots");
    open_all(argv[1], atoi(argv[2]), atoi(argv[3]), strcmp(argv[4], "slots") == 0);
    puts("ready");
    fflush(stdout);
    while (scanf("%15s %u %u", who, &length, &count) == 3) {
        struct channel *channels = strcmp(who, "vms") == 0 ? vms : vcpus;
        if (length < 1 || length > MAX_CHANNELS || !channels[length - 1].client || count > MAX_COUNT)
            errx(1, "no %u %s, or not %u exits at once", length, who, count);
        uint64_t took = keep_busy(channels, length, count);
        if (fwrite(&took, sizeof(took), 1, stdout) != 1)
            err(1, "standard output");
        tell(count);
    }
    return 0;
}
