/*
 * Exits in shared memory (docs/protocol.md, "Shared memory"): a client's slots, shared by all
 * its vCPU threads.  After mmiod_share everything below uses them: exits that fit go through
 * the vCPU's slot, posted writes through its ring, the rest, and what a broken connection left
 * unanswered, by message.  x86-64 only: the order of stores is the processor's.
 */
#ifndef MMIOD_EXIT_LAYOUT_ONLY

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MMIOD_SHARED_PAGE 4096u
#define MMIOD_SHARED_SLOTS 251
#define MMIOD_SHARED_RING 64u
#define MMIOD_SHARED_SPIN 400 /* looks at a slot before its client sleeps; a few us */

struct mmiod_shared {
    uint8_t *memory;
    size_t length;                       /* of the memory: what is behind the slots is for published registers */
    uint32_t slots;
    uint32_t shares;                     /* how often the daemon was told of it */
    int descriptors[2 + MMIOD_SHARED_SLOTS]; /* as SHARE sends them: memfd, kick, the vCPUs' ears */
};

static inline struct mmiod_shared_slot *mmiod_slot(const struct mmiod_shared *shared, uint32_t vcpu)
{
    return (struct mmiod_shared_slot *)(void *)(shared->memory + MMIOD_SHARED_PAGE * (1 + (size_t)vcpu));
}

/* Where the published registers are, NULL before there are any. */
static inline const uint8_t *mmiod_published(const struct mmiod_shared *shared)
{
    const struct mmiod_shared_header *header;

    header = (const struct mmiod_shared_header *)(const void *)shared->memory;
    return header->published_offset ? shared->memory + header->published_offset : NULL;
}

/* Tells the daemon that there is something new; it is kicked if it sleeps. */
static inline void mmiod_slot_ring(struct mmiod_shared *shared, uint32_t vcpu)
{
    struct mmiod_shared_header *header = (struct mmiod_shared_header *)(void *)shared->memory;
    uint8_t *bell = &header->doorbells[vcpu];

    __atomic_store_n(bell, (uint8_t)(*bell + 1), __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* its look at the bell, or ours at its flag, sees the other */
    if (__atomic_load_n(&header->daemon_sleeps, __ATOMIC_RELAXED))
        eventfd_write(shared->descriptors[1], 1);
}

/* Puts an exit into a slot that is free. */
static inline void mmiod_slot_post(struct mmiod_shared *shared, uint32_t vcpu, const void *message,
                                   size_t size)
{
    struct mmiod_shared_slot *slot = mmiod_slot(shared, vcpu);

    memcpy(slot->exit, message, size);
    __atomic_store_n(&slot->state, MMIOD_SHARED_STATE_READY, __ATOMIC_RELEASE);
    mmiod_slot_ring(shared, vcpu);
}

static inline uint32_t mmiod_slot_state(const struct mmiod_shared *shared, uint32_t vcpu)
{
    return __atomic_load_n(&mmiod_slot(shared, vcpu)->state, __ATOMIC_ACQUIRE);
}

/* Looks `looks` times whether the exit is answered: the slot's state. */
static inline uint32_t mmiod_slot_spin(const struct mmiod_shared *shared, uint32_t vcpu, uint32_t looks)
{
    uint32_t state;

    while ((state = mmiod_slot_state(shared, vcpu)) == MMIOD_SHARED_STATE_READY && looks-- > 0) {
#ifdef __x86_64__
        __builtin_ia32_pause();
#endif
    }
    return state;
}

/* Lets mmiod_slot_wait hear, too, when `other` can be read; 0 or a negative errno. */
static inline int mmiod_slot_hear(const struct mmiod_shared *shared, uint32_t vcpu, int other)
{
    struct epoll_event event;

    memset(&event, 0, sizeof(event));
    event.events = EPOLLIN;
    return epoll_ctl(shared->descriptors[2 + vcpu], EPOLL_CTL_ADD, other, &event) < 0 && errno != EEXIST
               ? -errno
               : 0;
}

/*
 * Sleeps until the exit may be answered, or what else the vCPU's ear hears: the slot's state.  That is
 * one system call, as a wake-up is nothing that is to be read: the daemon's eventfd is in the ear,
 * edge-triggered.
 */
static inline uint32_t mmiod_slot_wait(const struct mmiod_shared *shared, uint32_t vcpu)
{
    struct mmiod_shared_slot *slot = mmiod_slot(shared, vcpu);
    struct epoll_event heard[2];

    __atomic_store_n(&slot->client_sleeps, 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (mmiod_slot_state(shared, vcpu) == MMIOD_SHARED_STATE_READY)
        epoll_wait(shared->descriptors[2 + vcpu], heard, 2, -1);
    __atomic_store_n(&slot->client_sleeps, 0, __ATOMIC_RELAXED);
    return mmiod_slot_state(shared, vcpu);
}

/* Gives it back, behind mmiod_close of all its clients; the memfd stays the caller's. */
static inline void mmiod_shared_close(struct mmiod_shared *shared)
{
    uint32_t n;

    munmap(shared->memory, shared->length);
    close(shared->descriptors[1]);
    for (n = 0; n < shared->slots; n++)
        close(shared->descriptors[2 + n]);
}

/* Makes the client's side for `slots` vCPUs in a memfd that is the caller's: see mmiod_share. */
static inline int mmiod_shared_init(struct mmiod_shared *shared, int memfd, uint32_t slots)
{
    off_t end = lseek(memfd, 0, SEEK_END);
    size_t length = end > 0 ? (size_t)end : 0;
    void *memory;
    int result;

    memset(shared, 0, sizeof(*shared));
    if (slots > MMIOD_SHARED_SLOTS || length < MMIOD_SHARED_PAGE * (1 + (size_t)slots))
        return -EINVAL;
    memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    shared->memory = (uint8_t *)memory;
    shared->length = length;
    shared->shares = 1;
    shared->descriptors[0] = memfd;
    shared->descriptors[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    while (shared->descriptors[1] >= 0 && shared->slots < slots) {
        int ear = epoll_create1(EPOLL_CLOEXEC);
        if (ear < 0)
            break;
        shared->descriptors[2 + shared->slots++] = ear;
    }
    if (shared->descriptors[1] >= 0 && shared->slots == slots)
        return 0;
    result = -errno;
    mmiod_shared_close(shared);
    return result;
}

#endif /* MMIOD_EXIT_LAYOUT_ONLY */

