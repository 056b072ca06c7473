/*
 * A client of the protocol, for one connection and the exits of one vCPU.
 *
 *     static struct mmiod_client client;
 *     uint64_t status;
 *
 *     mmiod_client_init(&client, "/run/mmiod/vm0.exit", "vm0");
 *     client.hello.required = MMIOD_CAPABILITY_INTR;
 *     mmiod_open(&client);
 *     mmiod_map(&client, 0, 0, ram_size, ram_memfd, 0, 0);
 *     mmiod_write(&client, MMIOD_SPACE_PIO, 0x3f8, 1, 'A');
 *     mmiod_read(&client, MMIOD_SPACE_PIO, 0x3fd, 1, &status);
 *
 * Everything waits, in one thread.  A VM of several vCPUs has a client for each: the first
 * one opens the session, the others begin with mmiod_client_join.
 *
 * Functions return 0 or more, or a negative errno:
 *     -EREMOTEIO   the daemon answered ERROR; it is in `error`
 *     -EBUSY       an exit is outstanding; from mmiod_open: the VM has another client
 *     -ENXIO       nobody claims the address, and its range says `forward`
 *     -EAGAIN      a reset ended the exit; from mmiod_poll never
 *     -ECANCELED   `event` said so; the exit that was waited for is still outstanding
 *     -ECONNRESET  the connection is gone (with patience_ms the client reconnects instead)
 *     -ESTALE      the session is over: the devices were reset; from mmiod_open perhaps the VM's name is
 *                  not the socket's (`error` has the field)
 *     -EPROTO      the daemon broke the protocol
 * and what socket calls give.
 *
 * Where there is no libc, define MMIOD_EXIT_LAYOUT_ONLY before the #include.
 */
#ifndef MMIOD_EXIT_LAYOUT_ONLY

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MMIOD_CLIENT_RETRY_MS 50 /* between two attempts to connect */
#define MMIOD_CLIENT_POSTED 64   /* posted writes that are kept until they are acknowledged */
#define MMIOD_MACHINE 0xffffffffu /* every vCPU and all devices: see mmiod_reset */

struct mmiod_client {
    /* The caller's, to be set between mmiod_client_init and mmiod_open. */
    const char *path;
    struct mmiod_msg_hello hello;
    uint32_t vcpu;                       /* the one whose exits go this way */
    int patience_ms;                     /* how long to look for a daemon that is not there */
    uint32_t spin;                       /* looks at the slot before sleeping; 0 where CPUs are few */
    void *context;                       /* for `event` */
    /*
     * What the daemon says unasked: INTR, SET_LEVEL, MSI, REQUEST, CLAIMS; and WELCOME, each
     * time that a connection is open (`socket` is new then).  Anything but 0 ends a wait
     * for a completion with -ECANCELED.  It is called while the client waits, and must
     * not use the client itself.
     */
    int (*event)(void *context, const union mmiod_message *message);

    /* The caller's at any time. */
    uint64_t guest_ns;                   /* goes into each exit, with capability GUEST_TIME; else 0 */
    struct mmiod_view *view;             /* see mmiod_load; NULL: all goes by message */
    struct mmiod_fixtures *fixtures;     /* what stands; NULL: grants are left unused */

    /* For the caller to read. */
    int socket;                          /* -1: none */
    int descriptor;                      /* that came with `in`, else -1; closed by the next receive */
    uint32_t interrupt;                  /* the interrupt request of this vCPU, as far as is known */
    struct mmiod_completion completion;  /* of the last exit */
    struct mmiod_msg_welcome welcome;
    struct mmiod_msg_error error;        /* texts fill their fields: print by %.40s and %.120s */
    union mmiod_message in;              /* the last message */

    /* The client's own: numbers, and what the daemon may have to be told again. */
    uint32_t times_opened;               /* connections and take-overs: a request is sent to each */
    uint32_t serial;
    int pending;                         /* `out` is outstanding */
    uint64_t sequence;                   /* of the last exit */
    uint64_t dropped;                    /* the last exit that a reset may have ended */
    uint64_t posted;                     /* of the last posted write */
    union mmiod_message out;             /* the last exit, as it was sent */
    struct mmiod_shared *shared;         /* NULL: everything goes by message */
    int in_slot;                         /* `out` is outstanding in the slot */
    pid_t heard;                         /* who put `socket` into the ear of the slot; 0: nobody */
    uint32_t share;                      /* shared->shares when the slot was last answered */
    uint32_t lost;                       /* the same when this connection was lost: newer ones can be used */
    struct mmiod_msg_posted unacknowledged[MMIOD_CLIENT_POSTED];
};

/* --- datagrams ----------------------------------------------------------------------- */

/* Ends the connection, and all that was granted on it. */
static inline void mmiod_close(struct mmiod_client *client)
{
    if (client->fixtures)
        mmiod_fixtures_clear(client->fixtures);
    if (client->heard == getpid()) /* closing would do, but for a copy that a fork has: that has the ear, too */
        epoll_ctl(client->shared->descriptors[2 + client->vcpu], EPOLL_CTL_DEL, client->socket, NULL);
    client->heard = 0;
    if (client->socket >= 0)
        close(client->socket);
    if (client->descriptor >= 0)
        close(client->descriptor);
    client->socket = client->descriptor = -1;
}

/*
 * Sends a message with `count` descriptors.  A connection that is gone is no error yet: the
 * daemon's last words are still to be read, and the receive tells the end.
 */
static inline int mmiod_send_with(struct mmiod_client *client, void *bytes, const int *descriptors,
                                  size_t count)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE((2 + MMIOD_SHARED_SLOTS) * sizeof(int))];
    } control;
    struct iovec part;
    struct msghdr message;

    memset(&control, 0, sizeof(control));
    memset(&message, 0, sizeof(message));
    part.iov_base = bytes;
    part.iov_len = ((struct mmiod_header *)bytes)->size;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (count > 0) {
        control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        memcpy(CMSG_DATA(&control.head), descriptors, count * sizeof(int));
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    }
    while (client->socket >= 0 && sendmsg(client->socket, &message, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return errno == EPIPE || errno == ECONNRESET ? 0 : -errno;
    return 0;
}

/* The same with one descriptor, unless that is -1. */
static inline int mmiod_send(struct mmiod_client *client, void *bytes, int descriptor)
{
    return mmiod_send_with(client, bytes, &descriptor, descriptor >= 0);
}

/* Keeps one descriptor that came with a message, and closes those that nobody expects. */
static inline void mmiod_keep_descriptor(struct mmiod_client *client, struct msghdr *message)
{
    struct cmsghdr *head;

    for (head = CMSG_FIRSTHDR(message); head; head = CMSG_NXTHDR(message, head)) {
        size_t at = CMSG_LEN(0);
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        for (; at + sizeof(int) <= head->cmsg_len; at += sizeof(int)) {
            int descriptor;
            memcpy(&descriptor, (uint8_t *)head + at, sizeof(int));
            if (client->descriptor < 0)
                client->descriptor = descriptor;
            else
                close(descriptor);
        }
    }
}

/*
 * Receives one message into `in`: its type, or -ECONNRESET at the end.  When the daemon
 * dies with messages of ours unread, the first receive fails, and what it sent before
 * comes after that; hence `once_more`.
 */
static inline int mmiod_take(struct mmiod_client *client, int flags)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part;
    struct msghdr message;
    ssize_t size;
    int once_more = 1;

    if (client->socket < 0)
        return -ECONNRESET;
    if (client->descriptor >= 0)
        close(client->descriptor);
    client->descriptor = -1;
    part.iov_base = &client->in;
    part.iov_len = sizeof(client->in);
    do {
        memset(&message, 0, sizeof(message));
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = &control;
        message.msg_controllen = sizeof(control.room);
        size = recvmsg(client->socket, &message, flags | MSG_CMSG_CLOEXEC);
    } while (size < 0 && (errno == EINTR || (errno == ECONNRESET && once_more--)));
    if (size < 0)
        return -errno;
    if (size == 0)
        return -ECONNRESET;
    mmiod_keep_descriptor(client, &message);
    if (message.msg_flags & MSG_CTRUNC)
        return -EMFILE;
    if (message.msg_flags & MSG_TRUNC || (size_t)size < sizeof(struct mmiod_header) ||
        client->in.header.size != (size_t)size || !mmiod_message_size(client->in.header.type) ||
        (size_t)size < mmiod_message_size(client->in.header.type))
        return -EPROTO;
    return client->in.header.type;
}

/* --- the connection ------------------------------------------------------------------ */

/* A client of the VM's socket, with HELLO for one 64-bit vCPU and no capabilities. */
static inline void mmiod_client_init(struct mmiod_client *client, const char *path, const char *vm)
{
    size_t length = strlen(vm);

    memset(client, 0, sizeof(*client));
    client->socket = client->descriptor = -1;
    client->path = path;
    client->hello.header.size = sizeof(client->hello);
    client->hello.header.type = MMIOD_MSG_HELLO;
    client->hello.version_min = client->hello.version_max = MMIOD_EXIT_VERSION;
    client->hello.vcpus = 1;
    client->hello.bitness = 64;
    client->hello.physical_bits = 40;
    client->spin = MMIOD_SHARED_SPIN;
    memcpy(client->hello.vm, vm, length < sizeof(client->hello.vm) ? length : sizeof(client->hello.vm));
}

/* A channel for another vCPU of the session that `primary` has open. */
static inline void mmiod_client_join(struct mmiod_client *client, const struct mmiod_client *primary,
                                     uint32_t vcpu)
{
    mmiod_client_init(client, primary->path, "");
    client->hello = primary->hello;
    client->hello.header.flags = MMIOD_HELLO_FLAG_JOIN;
    client->vcpu = vcpu;
    client->patience_ms = primary->patience_ms;
    client->spin = primary->spin;
    client->shared = primary->shared;
    client->share = primary->share;
}

/* Sends again what has no answer: after a reconnect or RESUMED; posted writes also after a pause. */
static inline int mmiod_resend(struct mmiod_client *client)
{
    uint64_t sequence = client->completion.posted;
    int result = 0;

    if (client->in_slot) /* first: what the daemon hears of by message, it must not find there */
        __atomic_store_n(&mmiod_slot(client->shared, client->vcpu)->state, MMIOD_SHARED_STATE_FREE,
                         __ATOMIC_SEQ_CST);
    client->in_slot = 0;
    while (result == 0 && sequence++ < client->posted)
        result = mmiod_send(client, &client->unacknowledged[sequence % MMIOD_CLIENT_POSTED], -1);
    return result == 0 && client->pending ? mmiod_send(client, &client->out, -1) : result;
}

static inline void mmiod_describe_share(const struct mmiod_shared *shared, struct mmiod_msg_share *share)
{
    memset(share, 0, sizeof(*share));
    share->header.size = sizeof(*share);
    share->header.type = MMIOD_MSG_SHARE;
    share->serial = 1;
    share->slots = shared->slots;
    share->length = shared->length;
}

/* A new connection, or a new daemon: slots can be used again when it knows of them. */
static inline int mmiod_share_again(struct mmiod_client *client)
{
    struct mmiod_shared *shared = client->shared;
    struct mmiod_msg_share share;

    if (!shared)
        return 0;
    client->lost = client->share;
    if (client->hello.header.flags & MMIOD_HELLO_FLAG_JOIN ||
        !(client->welcome.capabilities & MMIOD_CAPABILITY_SHARED_MEMORY))
        return 0;
    mmiod_describe_share(shared, &share);
    __atomic_add_fetch(&shared->shares, 1, __ATOMIC_SEQ_CST);
    return mmiod_send_with(client, &share, shared->descriptors, 2 + shared->slots);
}

static inline int mmiod_welcomed(struct mmiod_client *client)
{
    int result;

    client->welcome = client->in.welcome;
    memcpy(client->hello.token, client->welcome.token, sizeof(client->hello.token));
    client->times_opened++;
    if (client->event)
        client->event(client->context, &client->in);
    result = mmiod_resend(client);
    return result < 0 ? result : mmiod_share_again(client);
}

static inline int mmiod_turned_away(struct mmiod_client *client)
{
    client->error = client->in.error;
    switch (client->error.code) {
    case MMIOD_ERROR_BUSY:
        return -EBUSY;
    case MMIOD_ERROR_IDENTITY:
        return -ESTALE;
    default:
        return -EREMOTEIO;
    }
}

static inline int mmiod_connect(struct mmiod_client *client)
{
    struct sockaddr_un address;
    int result;

    mmiod_close(client);
    if (strlen(client->path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memset(&address, 0, sizeof(address));
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, client->path);
    client->socket = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (client->socket < 0 || connect(client->socket, (struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    result = mmiod_send(client, &client->hello, -1);
    if (result == 0)
        result = mmiod_take(client, 0);
    if (result == MMIOD_MSG_WELCOME)
        return mmiod_welcomed(client);
    if (result == MMIOD_MSG_ERROR)
        return mmiod_turned_away(client);
    return result < 0 ? result : -EPROTO;
}

/* Whether a later attempt may succeed.  BUSY: the daemon may not know yet that we were gone. */
static inline int mmiod_passes(int error)
{
    return error == -ENOENT || error == -ECONNREFUSED || error == -ECONNRESET || error == -EAGAIN ||
           error == -EINTR || error == -EBUSY;
}

/*
 * Connects and opens a session; with the token of one, goes on with it and sends again
 * what has no answer.  Tries for patience_ms, at least once.
 */
static inline int mmiod_open(struct mmiod_client *client)
{
    int waited_ms = 0;

    for (;;) {
        int result = mmiod_connect(client);
        if (result == 0)
            return 0;
        mmiod_close(client);
        if (!mmiod_passes(result) || waited_ms >= client->patience_ms)
            return result;
        poll(NULL, 0, MMIOD_CLIENT_RETRY_MS);
        waited_ms += MMIOD_CLIENT_RETRY_MS;
    }
}

/* --- what arrives -------------------------------------------------------------------- */

static inline int mmiod_settle(struct mmiod_client *client, int type)
{
    const struct mmiod_completion *completion = &client->in.retry.completion; /* in all at one place */

    if (completion->vcpu == client->vcpu && completion->sequence <= client->dropped)
        return 0;
    if (completion->vcpu != client->vcpu || completion->sequence != client->sequence || !client->pending)
        return -EPROTO;
    client->completion = *completion;
    client->interrupt = completion->interrupt;
    client->pending = 0;
    return type;
}

/* An exit that was refused was not admitted: its number is free, for a better one. */
static inline int mmiod_refused(struct mmiod_client *client)
{
    int of_posted;

    client->error = client->in.error;
    of_posted = strncmp(client->error.name, "posted.", 7) == 0;
    if (client->pending && client->error.subject == client->sequence && !of_posted) {
        client->pending = 0;
        client->sequence--;
    }
    if (client->error.fatal)
        mmiod_close(client);
    return -EREMOTEIO;
}

/* Puts up what the GRANT in `in` allows; its descriptor is closed by the next receive if nobody takes it. */
static inline int mmiod_granted(struct mmiod_client *client)
{
    int descriptor = client->descriptor;

    if (!client->fixtures)
        return 0;
    client->descriptor = -1;
    return mmiod_fixture_put(client->fixtures, &client->in.grant, descriptor);
}

/* Takes down what the REVOKE in `in` ends, and says so. */
static inline int mmiod_revoke(struct mmiod_client *client)
{
    struct mmiod_msg_revoked revoked;

    memset(&revoked, 0, sizeof(revoked));
    revoked.header.size = sizeof(revoked);
    revoked.header.type = MMIOD_MSG_REVOKED;
    revoked.number = client->in.revoke.number;
    if (client->fixtures)
        mmiod_fixture_take(client->fixtures, revoked.number);
    return mmiod_send(client, &revoked, -1);
}

/* Another daemon has the connection: what is unanswered goes out again, and all grants have ended. */
static inline int mmiod_resumed(struct mmiod_client *client)
{
    int result;

    if (client->fixtures)
        mmiod_fixtures_clear(client->fixtures);
    client->times_opened++;
    result = mmiod_resend(client);
    return result < 0 ? result : mmiod_share_again(client);
}

/* What the message in `in` comes to: the type of an answer, 0 if there is nothing more to do. */
static inline int mmiod_sort(struct mmiod_client *client, int type)
{
    int answer = 0;

    if (type >= MMIOD_MSG_VALUES && type <= MMIOD_MSG_REPLY)
        return mmiod_settle(client, type);
    switch (type) {
    case MMIOD_MSG_ACK:
        return type;
    case MMIOD_MSG_ERROR:
        return mmiod_refused(client);
    case MMIOD_MSG_RESUMED:
        return mmiod_resumed(client);
    case MMIOD_MSG_GRANT:
        return mmiod_granted(client);
    case MMIOD_MSG_REVOKE:
        return mmiod_revoke(client);
    case MMIOD_MSG_INTR:
        if (client->in.intr.vcpu == client->vcpu)
            client->interrupt = client->in.intr.level;
        break;
    case MMIOD_MSG_CLAIMS:
        if (client->in.claims.serial && !client->in.claims.remaining)
            answer = type;
        break;
    case MMIOD_MSG_SET_LEVEL:
    case MMIOD_MSG_MSI:
    case MMIOD_MSG_REQUEST:
        break;
    default:
        return -EPROTO;
    }
    return client->event && client->event(client->context, &client->in) ? -ECANCELED : answer;
}

/* Takes one message, or with `flags` MSG_DONTWAIT perhaps none (-EAGAIN). */
static inline int mmiod_next(struct mmiod_client *client, int flags)
{
    int type = mmiod_take(client, flags);

    if (type == -ECONNRESET && client->patience_ms > 0)
        return mmiod_open(client);
    return type < 0 ? type : mmiod_sort(client, type);
}

/* Takes what has arrived, without waiting: before the guest is entered. */
static inline int mmiod_poll(struct mmiod_client *client)
{
    int result;

    do
        result = mmiod_next(client, MSG_DONTWAIT);
    while (result >= 0);
    return result == -EAGAIN ? 0 : result;
}

/* --- requests: no exit may be outstanding --------------------------------------------- */

/* Devices that were restored may lack what was rung before. */
static inline int mmiod_acknowledged(const struct mmiod_client *client, uint16_t type)
{
    if (type == MMIOD_MSG_RESTORE && client->fixtures)
        mmiod_fixtures_ring(client->fixtures);
    return 0;
}

/*
 * Sends a request, which gets its serial here, and waits for the answer, which is in `in`.
 * After a reconnect or a take-over the request is sent again.
 */
static inline int mmiod_request_with(struct mmiod_client *client, void *request, const int *descriptors,
                                     size_t count)
{
    uint32_t sent_at = client->times_opened - 1;
    int result;

    if (client->pending)
        return -EBUSY;
    client->serial += client->serial == 0xffffffffu ? 2 : 1; /* never 0 */
    ((struct mmiod_msg_reset *)request)->serial = client->serial; /* in all at one place */
    do {
        if (sent_at != client->times_opened) {
            sent_at = client->times_opened;
            result = mmiod_send_with(client, request, descriptors, count);
            if (result < 0)
                return result;
        }
        result = mmiod_next(client, 0);
        if (result > 0 && client->in.ack.serial == client->serial)
            return mmiod_acknowledged(client, ((struct mmiod_header *)request)->type);
    } while (result >= 0 || result == -ECANCELED);
    return result;
}

static inline int mmiod_request(struct mmiod_client *client, void *request, int descriptor)
{
    return mmiod_request_with(client, request, &descriptor, descriptor >= 0);
}

/*
 * Has the exits of all vCPUs go through shared memory: for the primary client, behind mmiod_open
 * with capability SHARED_MEMORY.  `memfd` has 4096 * (1 + hello.vcpus) bytes, zeros, and is sealed
 * with F_SEAL_SHRINK; with MMIOD_PUBLISHED_BYTES more there is room for published registers, and with
 * MMIOD_PAGES_BYTES behind those for pages that are granted.  `shared` lives as long as the clients.
 * Clients that join later use it, too.
 * Where it fails exits go by message as before.
 */
static inline int mmiod_share(struct mmiod_client *client, struct mmiod_shared *shared, int memfd)
{
#ifdef __x86_64__
    struct mmiod_msg_share message;
    int result = mmiod_shared_init(shared, memfd, client->hello.vcpus);

    if (result < 0)
        return result;
    if (client->fixtures)
        client->fixtures->shared = shared;
    mmiod_describe_share(shared, &message);
    result = mmiod_request_with(client, &message, shared->descriptors, 2 + shared->slots);
    if (result < 0) {
        if (client->fixtures)
            client->fixtures->shared = NULL;
        mmiod_shared_close(shared);
        return result;
    }
    client->shared = shared;
    client->share = shared->shares;
    client->heard = 0;
    return 0;
#else
    (void)client, (void)shared, (void)memfd;
    return -ENOSYS;
#endif
}

/* Guest RAM: `length` bytes from `offset` in the descriptor, which stays the caller's. */
static inline int mmiod_map(struct mmiod_client *client, uint32_t slot, uint64_t gpa, uint64_t length,
                            int descriptor, uint64_t offset, uint16_t flags)
{
    struct mmiod_msg_map map;

    memset(&map, 0, sizeof(map));
    map.header.size = sizeof(map);
    map.header.type = MMIOD_MSG_MAP;
    map.header.flags = flags;
    map.slot = slot;
    map.gpa = gpa;
    map.length = length;
    map.offset = offset;
    return mmiod_request(client, &map, flags & MMIOD_MAP_FLAG_NO_DESCRIPTOR ? -1 : descriptor);
}

/* After this the slot's memory may be used for something else. */
static inline int mmiod_unmap(struct mmiod_client *client, uint32_t slot)
{
    struct mmiod_msg_unmap unmap;

    memset(&unmap, 0, sizeof(unmap));
    unmap.header.size = sizeof(unmap);
    unmap.header.type = MMIOD_MSG_UNMAP;
    unmap.slot = slot;
    return mmiod_request(client, &unmap, -1);
}

/* Resets a vCPU's affairs, or those of MMIOD_MACHINE.  An exit that is outstanding ends here. */
static inline int mmiod_reset(struct mmiod_client *client, uint32_t vcpu)
{
    struct mmiod_msg_reset reset;

    memset(&reset, 0, sizeof(reset));
    reset.header.size = sizeof(reset);
    reset.header.type = MMIOD_MSG_RESET;
    reset.vcpu = vcpu;
    if (vcpu == MMIOD_MACHINE || vcpu == client->vcpu) {
        client->pending = client->in_slot = 0;
        client->dropped = client->sequence;
        client->interrupt = 0;
    }
    return mmiod_request(client, &reset, -1);
}

/* --- exits --------------------------------------------------------------------------- */

/* Begins an exit in `out`; NULL while one is outstanding. */
static inline union mmiod_message *mmiod_begin(struct mmiod_client *client, uint16_t type)
{
    if (client->pending)
        return NULL;
    memset(&client->out, 0, mmiod_message_size(type));
    client->out.header.size = mmiod_message_size(type);
    client->out.header.type = type;
    client->out.exit_halt.exit.vcpu = client->vcpu; /* in all exits at one place */
    client->out.exit_halt.exit.guest_ns = client->guest_ns;
    return &client->out;
}

/* Whether the daemon looks at our slot. */
static inline int mmiod_slot_usable(const struct mmiod_client *client)
{
    return client->shared && client->socket >= 0 &&
           __atomic_load_n(&client->shared->shares, __ATOMIC_RELAXED) != client->lost;
}

static inline int mmiod_slot_fits(const struct mmiod_client *client)
{
    return client->out.header.size <= sizeof(((struct mmiod_shared_slot *)NULL)->exit);
}

/* Takes the completion out of the slot. */
static inline int mmiod_slot_take(struct mmiod_client *client)
{
    struct mmiod_shared_slot *slot = mmiod_slot(client->shared, client->vcpu);
    const struct mmiod_header *header = (const struct mmiod_header *)(const void *)slot->completion;
    uint32_t size = header->size;

    client->in_slot = 0;
    client->share = client->shared->shares;
    if (size < sizeof(*header) || size > sizeof(slot->completion))
        return -EPROTO;
    memcpy(&client->in, slot->completion, size);
    __atomic_store_n(&slot->state, MMIOD_SHARED_STATE_FREE, __ATOMIC_RELEASE);
    if (!mmiod_message_size(client->in.header.type) || size < mmiod_message_size(client->in.header.type))
        return -EPROTO;
    return mmiod_settle(client, client->in.header.type);
}

/* Waits for what is outstanding in the slot, or for a message: the completion's type, 0, or an error. */
static inline int mmiod_slot_next(struct mmiod_client *client)
{
    struct mmiod_shared *shared = client->shared;
    uint32_t state = mmiod_slot_spin(shared, client->vcpu, client->spin);
    int result;

    if (state == MMIOD_SHARED_STATE_READY && client->socket < 0)
        return mmiod_next(client, 0); /* nobody looks there any more */
    if (state == MMIOD_SHARED_STATE_READY && !client->heard) {
        result = mmiod_slot_hear(shared, client->vcpu, client->socket);
        if (result < 0)
            return result;
        client->heard = getpid();
    }
    if (state == MMIOD_SHARED_STATE_READY)
        state = mmiod_slot_wait(shared, client->vcpu);
    switch (state) {
    case MMIOD_SHARED_STATE_COMPLETE:
        return mmiod_slot_take(client);
    case MMIOD_SHARED_STATE_READY:
        result = mmiod_next(client, MSG_DONTWAIT);
        return result == -EAGAIN ? 0 : result;
    default:
        client->in_slot = 0;
        __atomic_store_n(&mmiod_slot(shared, client->vcpu)->state, MMIOD_SHARED_STATE_FREE, __ATOMIC_SEQ_CST);
        return mmiod_send(client, &client->out, -1);
    }
}

/* Waits for the completion of the exit that is outstanding: its type; it is in `in`. */
static inline int mmiod_complete(struct mmiod_client *client)
{
    int result = -EINVAL;

    while (client->pending) {
        result = client->in_slot ? mmiod_slot_next(client) : mmiod_next(client, 0);
        if (result < 0)
            return result;
    }
    return result;
}

/* Sends the exit in `out` under the next number and waits for its completion. */
static inline int mmiod_exchange(struct mmiod_client *client)
{
    int result;

    if (client->pending)
        return -EBUSY;
    client->out.exit_halt.exit.sequence = ++client->sequence;
    client->pending = 1;
    if (mmiod_slot_usable(client) && mmiod_slot_fits(client)) {
        client->in_slot = 1;
        mmiod_slot_post(client->shared, client->vcpu, &client->out, client->out.header.size);
        return mmiod_complete(client);
    }
    result = mmiod_send(client, &client->out, -1);
    return result < 0 ? result : mmiod_complete(client);
}

/* 0 for VALUES; what other completions mean to an exit that is answered by them. */
static inline int mmiod_answered(int result)
{
    switch (result) {
    case MMIOD_MSG_VALUES:
        return 0;
    case MMIOD_MSG_FORWARD:
        return -ENXIO;
    case MMIOD_MSG_RETRY:
        return -EAGAIN;
    default:
        return result < 0 ? result : -EPROTO;
    }
}

/* Takes `length` bytes of elements out of VALUES. */
static inline int mmiod_elements(struct mmiod_client *client, void *data, size_t length)
{
    const struct mmiod_msg_values *values = &client->in.values;

    if (values->length != length || values->header.size != sizeof(*values) + (length > 8 ? length : 0))
        return -EPROTO;
    if (length > 8)
        memcpy(data, client->in.bytes + sizeof(*values), length);
    else if (length > 0)
        memcpy(data, &values->value, length);
    return 0;
}

/*
 * One access, or a string of `count` (see EXIT_DECODED for `stride`): `data` has
 * count * size bytes, which a read fills.
 */
static inline int mmiod_access(struct mmiod_client *client, uint8_t space, uint8_t direction,
                               uint64_t address, uint16_t size, uint32_t count, int32_t stride, void *data)
{
    uint64_t length = (uint64_t)size * count;
    union mmiod_message *out;
    int result;

    if (length > MMIOD_EXIT_MAX_MESSAGE - sizeof(out->exit_decoded))
        return -EMSGSIZE;
    out = mmiod_begin(client, MMIOD_MSG_EXIT_DECODED);
    if (!out)
        return -EBUSY;
    out->exit_decoded.address = address;
    out->exit_decoded.space = space;
    out->exit_decoded.direction = direction;
    out->exit_decoded.size = size;
    out->exit_decoded.count = count;
    out->exit_decoded.stride = stride;
    if (direction == MMIOD_DIRECTION_WRITE && length > 8) {
        memcpy(out->bytes + sizeof(out->exit_decoded), data, (size_t)length);
        out->header.size += (uint32_t)length;
    } else if (direction == MMIOD_DIRECTION_WRITE) {
        memcpy(&out->exit_decoded.value, data, (size_t)length);
    }
    result = mmiod_answered(mmiod_exchange(client));
    if (result < 0)
        return result;
    return mmiod_elements(client, data, direction == MMIOD_DIRECTION_READ ? (size_t)length : 0);
}

/* Reads 1, 2, 4 or 8 bytes. */
static inline int mmiod_read(struct mmiod_client *client, uint8_t space, uint64_t address, uint16_t size,
                             uint64_t *value)
{
    *value = 0;
    return size > 8 ? -EINVAL : mmiod_access(client, space, MMIOD_DIRECTION_READ, address, size, 1, 0, value);
}

/* Writes 1, 2, 4 or 8 bytes: the low ones of `value`. */
static inline int mmiod_write(struct mmiod_client *client, uint8_t space, uint64_t address, uint16_t size,
                              uint64_t value)
{
    return size > 8 ? -EINVAL : mmiod_access(client, space, MMIOD_DIRECTION_WRITE, address, size, 1, 0, &value);
}

static inline int mmiod_signal(struct mmiod_client *client, uint16_t type)
{
    return mmiod_begin(client, type) ? mmiod_answered(mmiod_exchange(client)) : -EBUSY;
}

/* HLT with interrupts enabled: returns when an interrupt is pending. */
static inline int mmiod_halt(struct mmiod_client *client)
{
    return mmiod_signal(client, MMIOD_MSG_EXIT_HALT);
}

/* Lets due timers run; has posted writes acknowledged; tells `interrupt` as it is now. */
static inline int mmiod_tick(struct mmiod_client *client)
{
    return mmiod_signal(client, MMIOD_MSG_EXIT_TICK);
}

/* Acknowledges the interrupt that is pending: its vector.  Deliver it now. */
static inline int mmiod_inta(struct mmiod_client *client)
{
    int result = mmiod_signal(client, MMIOD_MSG_EXIT_INTA);

    return result < 0 ? result : (int)(client->in.values.value & 0xff);
}

/* Puts a posted write into the vCPU's ring: there it is found by number, however it is sent. */
static inline void mmiod_slot_keep(struct mmiod_client *client, const struct mmiod_msg_posted *posted)
{
    struct mmiod_shared_slot *slot = mmiod_slot(client->shared, client->vcpu);
    struct mmiod_shared_posted *entry = &slot->ring[posted->exit.sequence % MMIOD_SHARED_RING];

    entry->address = posted->address;
    entry->value = posted->value;
    entry->space = posted->space;
    entry->size = posted->size;
    entry->guest_ns = posted->exit.guest_ns;
}

/* Learns which posted writes were applied; whether there is room for another one. */
static inline int mmiod_post_fits(struct mmiod_client *client)
{
    if (client->posted - client->completion.posted < MMIOD_CLIENT_POSTED)
        return 1;
    if (client->shared) {
        const struct mmiod_shared_slot *slot = mmiod_slot(client->shared, client->vcpu);
        uint64_t applied = __atomic_load_n(&slot->applied, __ATOMIC_ACQUIRE);
        if (applied > client->completion.posted && applied <= client->posted)
            client->completion.posted = applied;
    }
    return client->posted - client->completion.posted < MMIOD_CLIENT_POSTED;
}

/* Writes 1, 2, 4 or 8 bytes, and nobody waits for it. */
static inline int mmiod_post(struct mmiod_client *client, uint8_t space, uint64_t address, uint16_t size,
                             uint64_t value)
{
    struct mmiod_msg_posted *posted;

    if (client->pending)
        return -EBUSY;
    if (!mmiod_post_fits(client)) {
        int result = mmiod_tick(client);
        if (result < 0)
            return result;
    }
    posted = &client->unacknowledged[++client->posted % MMIOD_CLIENT_POSTED];
    memset(posted, 0, sizeof(*posted));
    posted->header.size = sizeof(*posted);
    posted->header.type = MMIOD_MSG_POSTED;
    posted->exit.vcpu = client->vcpu;
    posted->exit.sequence = client->posted;
    posted->exit.guest_ns = client->guest_ns;
    posted->address = address;
    posted->value = value;
    posted->space = space;
    posted->size = size;
    if (client->shared)
        mmiod_slot_keep(client, posted);
    if (!mmiod_slot_usable(client))
        return mmiod_send(client, posted, -1);
    __atomic_store_n(&mmiod_slot(client->shared, client->vcpu)->posted, client->posted, __ATOMIC_RELEASE);
    mmiod_slot_ring(client->shared, client->vcpu);
    return 0;
}

/* --- raw exits ----------------------------------------------------------------------- */

/*
 * Begins a raw exit of an instruction of which `length` bytes are known; NULL while one is
 * outstanding.  Set what else is known (gpa, gva, intent and their flags), then call
 * mmiod_exchange.  When that gives NEED_*, add to `out` what is asked for and call it again.
 */
static inline struct mmiod_msg_exit_raw *mmiod_raw(struct mmiod_client *client, const struct mmiod_vcpu *vcpu,
                                                   const void *code, size_t length)
{
    union mmiod_message *out = mmiod_begin(client, MMIOD_MSG_EXIT_RAW);

    if (!out)
        return NULL;
    out->exit_raw.vcpu = *vcpu;
    out->exit_raw.cpl = vcpu->segments[2].attributes >> 5 & 3; /* DPL of SS */
    out->exit_raw.code_length = length < 15 ? (uint8_t)length : 15;
    memcpy(out->exit_raw.code, code, out->exit_raw.code_length);
    return &out->exit_raw;
}

/*
 * Writes registers back as DONE says, or FAULT, whose delta and CR2 belong to the exception
 * that is for the caller to raise.  Memory is in the supplements.
 */
static inline void mmiod_apply(struct mmiod_vcpu *vcpu, const union mmiod_message *message)
{
    const struct mmiod_msg_done *done = &message->done; /* FAULT begins like it */
    int fault = message->header.type == MMIOD_MSG_FAULT;
    unsigned int n;

    if (fault && message->header.flags & MMIOD_FAULT_FLAG_CR2)
        vcpu->cr2 = message->fault.cr2;
    if (message->header.type != MMIOD_MSG_DONE && !(fault && message->header.flags & MMIOD_FAULT_FLAG_DELTA))
        return;
    for (n = 0; n < 16; n++)
        if (done->changed >> n & 1)
            vcpu->gpr[n] = done->gpr[n];
    vcpu->rip = done->rip;
    vcpu->rflags = done->rflags;
}

/* The supplement of DONE, FAULT or REPLY that follows `last`, or with NULL the first; NULL at the end. */
static inline const struct mmiod_supplement *mmiod_supplement_after(const union mmiod_message *message,
                                                                    const struct mmiod_supplement *last)
{
    const struct mmiod_supplement *item;
    size_t at = mmiod_message_size(message->header.type);

    if (message->header.type == MMIOD_MSG_REPLY)
        at += (message->reply.length + (size_t)7) & ~(size_t)7;
    if (last)
        at = (size_t)((const uint8_t *)last - message->bytes) + ((last->length + 7u) & ~(size_t)7);
    if (at + sizeof(*item) > message->header.size)
        return NULL;
    item = (const struct mmiod_supplement *)(const void *)(message->bytes + at);
    return item->length >= sizeof(*item) && item->length <= message->header.size - at ? item : NULL;
}

/*
 * Adds a supplement to the raw exit, or a source's, in `out`: `body` is one of struct mmiod_supplement_*,
 * `bytes` what follows it.
 */
static inline int mmiod_supply(struct mmiod_client *client, uint16_t kind, const void *body, size_t body_size,
                               const void *bytes, size_t length)
{
    struct mmiod_supplement head;
    size_t at = client->out.header.size;
    size_t size = sizeof(head) + body_size + length;
    size_t padded = (size + 7) & ~(size_t)7;

    if (client->pending)
        return -EBUSY;
    if (length > sizeof(client->out) || padded > sizeof(client->out) - at)
        return -EMSGSIZE;
    memset(&head, 0, sizeof(head));
    head.kind = kind;
    head.length = (uint32_t)size;
    memset(client->out.bytes + at, 0, padded);
    memcpy(client->out.bytes + at, &head, sizeof(head));
    memcpy(client->out.bytes + at + sizeof(head), body, body_size);
    if (length > 0)
        memcpy(client->out.bytes + at + sizeof(head) + body_size, bytes, length);
    client->out.header.size += (uint32_t)padded;
    return 0;
}

/* --- vector registers: an XSAVE area in the standard format (SDM vol. 1, 13.4) --------- */

/* Offsets that CPUID leaf 0DH tells, sub-leaves 2, 5, 6 and 7, in EBX; 0 for what the vCPU has not. */
struct mmiod_xsave {
    uint32_t avx;
    uint32_t opmask;
    uint32_t zmm_hi256;
    uint32_t hi16_zmm;
};

/* Registers that no XSAVE area has, for NEED_REGISTERS: IA32_PASID and DR0-3. */
struct mmiod_others {
    uint64_t pasid;
    uint64_t dr[4];
};

/* Component `bit` of `area`, made zeros if XSTATE_BV says that it is in its initial configuration. */
static inline uint8_t *mmiod_component(uint8_t *area, unsigned int bit, uint32_t offset, uint32_t size)
{
    uint64_t present;

    memcpy(&present, area + 512, sizeof(present));
    if (!(present >> bit & 1)) {
        memset(area + offset, 0, size);
        present |= (uint64_t)1 << bit;
        memcpy(area + 512, &present, sizeof(present));
    }
    return area + offset;
}

/* The part of component 0 that lies before MXCSR, with FCW 037FH if it is in its initial configuration. */
static inline uint8_t *mmiod_x87(uint8_t *area)
{
    if (!(area[512] & 1)) {
        memset(area + 32, 0, 128);
        mmiod_component(area, 0, 0, 24)[0] = 0x7f;
        area[1] = 3;
    }
    return area;
}

/*
 * Answers NEED_REGISTERS: supplies the sets that `in` asks for, from `area`, where components in
 * their initial configuration are filled in, and from `others`.  For KVM: KVM_GET_XSAVE and
 * KVM_GET_DEBUGREGS, this, and after DONE mmiod_apply_registers and KVM_SET_XSAVE.
 */
static inline int mmiod_supply_registers(struct mmiod_client *client, uint8_t *area,
                                         const struct mmiod_xsave *at, const struct mmiod_others *others)
{
    struct mmiod_supplement_registers head = {client->in.need_registers.registers, 0};
    uint8_t bytes[160 + 256 + 256 + 1600 + sizeof(*others)];
    size_t length = 0;

    memset(bytes, 0, sizeof(bytes));
    if (head.registers & MMIOD_REGISTER_SET_X87) {
        memcpy(bytes, mmiod_x87(area), 160);
        length += 160;
    }
    if (head.registers & MMIOD_REGISTER_SET_SSE) {
        memcpy(bytes + length, mmiod_component(area, 1, 160, 256), 256);
        length += 256;
    }
    if (head.registers & MMIOD_REGISTER_SET_AVX) {
        if (at->avx)
            memcpy(bytes + length, mmiod_component(area, 2, at->avx, 256), 256);
        length += 256;
    }
    if (head.registers & MMIOD_REGISTER_SET_AVX512) {
        if (at->hi16_zmm) {
            memcpy(bytes + length, mmiod_component(area, 5, at->opmask, 64), 64);
            memcpy(bytes + length + 64, mmiod_component(area, 6, at->zmm_hi256, 512), 512);
            memcpy(bytes + length + 576, mmiod_component(area, 7, at->hi16_zmm, 1024), 1024);
        }
        length += 1600;
    }
    if (head.registers & MMIOD_REGISTER_SET_PASID) {
        memcpy(bytes + length, &others->pasid, sizeof(others->pasid));
        length += sizeof(others->pasid);
    }
    if (head.registers & MMIOD_REGISTER_SET_DEBUG) {
        memcpy(bytes + length, others->dr, sizeof(others->dr));
        length += sizeof(others->dr);
    }
    return mmiod_supply(client, MMIOD_SUPPLEMENT_KIND_REGISTERS, &head, sizeof(head), bytes, length);
}

/* Writes `size` bytes of zmm `number`: 16, the rest stays, or 64. */
static inline void mmiod_put_vector(uint8_t *area, const struct mmiod_xsave *at, uint16_t number,
                                    const uint8_t *data, size_t size)
{
    if (number >= 16) {
        if (at->hi16_zmm)
            memcpy(mmiod_component(area, 7, at->hi16_zmm, 1024) + 64 * (number - 16), data, size);
        return;
    }
    memcpy(mmiod_component(area, 1, 160, 256) + 16 * number, data, 16);
    if (size == 64 && at->avx)
        memcpy(mmiod_component(area, 2, at->avx, 256) + 16 * number, data + 16, 16);
    if (size == 64 && at->zmm_hi256)
        memcpy(mmiod_component(area, 6, at->zmm_hi256, 512) + 32 * number, data + 32, 32);
}

/* Writes the vector registers that DONE changed to `area`; the rest of DONE is for mmiod_apply. */
static inline void mmiod_apply_registers(uint8_t *area, const struct mmiod_xsave *at,
                                         const union mmiod_message *message)
{
    const struct mmiod_supplement *item = NULL;

    while ((item = mmiod_supplement_after(message, item))) {
        const struct mmiod_supplement_vector *vector = (const struct mmiod_supplement_vector *)(item + 1);
        const uint8_t *data = (const uint8_t *)(vector + 1);

        if (item->kind != MMIOD_SUPPLEMENT_KIND_VECTOR)
            continue;
        if (vector->file == MMIOD_REGISTER_FILE_XMM || vector->file == MMIOD_REGISTER_FILE_ZMM)
            mmiod_put_vector(area, at, vector->number, data, item->length - sizeof(*item) - sizeof(*vector));
        if (vector->file == MMIOD_REGISTER_FILE_K && at->opmask)
            memcpy(mmiod_component(area, 5, at->opmask, 64) + 8 * vector->number, data, 8);
        if (vector->file == MMIOD_REGISTER_FILE_FX) {
            memcpy(mmiod_x87(area), data, 24);
            memcpy(area + 32, data + 32, 128);
        }
    }
}

/* --- exits of a source: hello.source says whose structures they are ------------------- */

/*
 * Begins an exit with such a structure; then call mmiod_exchange.  When that gives NEED_*,
 * add what is asked for with mmiod_supply and call it again.
 */
static inline int mmiod_source(struct mmiod_client *client, const void *body, size_t length)
{
    union mmiod_message *out = mmiod_begin(client, MMIOD_MSG_EXIT_SOURCE);
    size_t padded = (length + 7) & ~(size_t)7;

    if (!out)
        return -EBUSY;
    if (length > sizeof(*out) || padded > sizeof(*out) - sizeof(out->exit_source))
        return -EMSGSIZE;
    out->exit_source.length = (uint32_t)length;
    memset(out->bytes + sizeof(out->exit_source), 0, padded);
    memcpy(out->bytes + sizeof(out->exit_source), body, length);
    out->header.size += (uint32_t)padded;
    return 0;
}

/* Takes the structure out of REPLY: -EPROTO if `in` is another completion. */
static inline int mmiod_reply(const struct mmiod_client *client, void *body, size_t length)
{
    const struct mmiod_msg_reply *reply = &client->in.reply;

    if (reply->header.type != MMIOD_MSG_REPLY || reply->length != length ||
        reply->header.size < sizeof(*reply) + length)
        return -EPROTO;
    memcpy(body, client->in.bytes + sizeof(*reply), length);
    return 0;
}

#endif /* MMIOD_EXIT_LAYOUT_ONLY */
