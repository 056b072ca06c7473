/*
 * Registers that need no message (docs/protocol.md, "Published registers"):
 *
 *     static struct mmiod_view view;       // one for each vCPU
 *
 *     client.hello.required = MMIOD_CAPABILITY_SHARED_MEMORY | MMIOD_CAPABILITY_PUBLISHED;
 *     mmiod_share(&client, &shared, memfd);        // of MMIOD_PUBLISHED_BYTES more
 *     client.view = &view;
 *     mmiod_store(&client, MMIOD_SPACE_PIO, 0x3f8, 1, 'A');
 *     mmiod_load(&client, MMIOD_SPACE_PIO, 0x3fd, 1, &status);
 *
 * mmiod_load and mmiod_store send a message where one is needed, and keep the order that the vCPU's
 * program has: a published read waits for the posted writes that may change it, of any vCPU.
 */
#ifndef MMIOD_EXIT_LAYOUT_ONLY

#include <time.h>

#define MMIOD_PUBLISHED_BYTES 262144u /* room for 4095 rows */
#define MMIOD_VIEW_PLACES 8192u       /* a power of two, and more than there are rows */
#define MMIOD_VIEW_SPANS 64u

struct mmiod_view_span {
    uint64_t first;
    uint64_t last;
    uint8_t space;
    uint16_t row;
};

struct mmiod_view {
    uint64_t generation;                            /* of the table that the rest is about */
    struct mmiod_view_span spans[MMIOD_VIEW_SPANS]; /* and windows */
    uint32_t span_count;
    uint16_t places[MMIOD_VIEW_PLACES]; /* rows plus 1, by mmiod_view_place of their address; 0: none */
    /* For the caller to read. */
    uint64_t loads;                   /* that needed no message */
    uint64_t posts;
    uint64_t waits;                   /* for posted writes, before one of both */
};

static inline const struct mmiod_published_row *mmiod_rows(const struct mmiod_shared *shared)
{
    return (const struct mmiod_published_row *)(const void *)(mmiod_published(shared) +
                                                              sizeof(struct mmiod_published_header));
}

static inline uint64_t mmiod_generation(const struct mmiod_shared *shared)
{
    const struct mmiod_published_header *header;

    header = (const struct mmiod_published_header *)(const void *)mmiod_published(shared);
    return __atomic_load_n(&header->generation, __ATOMIC_ACQUIRE);
}

static inline uint32_t mmiod_view_place(uint8_t space, uint8_t kind, uint64_t address)
{
    uint64_t key = address ^ (uint64_t)space << 61 ^ (uint64_t)kind << 57;

    return (uint32_t)(key * 0x9e3779b97f4a7c15u >> 51) & (MMIOD_VIEW_PLACES - 1);
}

/* Makes the view one of the present table; whether there is one. */
static inline int mmiod_view_build(struct mmiod_view *view, const struct mmiod_shared *shared)
{
    const struct mmiod_published_header *header;
    const struct mmiod_published_row *rows = mmiod_rows(shared);
    uint64_t generation = mmiod_generation(shared);
    uint64_t count, row;

    header = (const struct mmiod_published_header *)(const void *)mmiod_published(shared);
    count = header->rows < MMIOD_VIEW_PLACES / 2 ? header->rows : MMIOD_VIEW_PLACES / 2 - 1;
    memset(view->places, 0, sizeof(view->places));
    view->span_count = 0;
    for (row = 0; row < count; row++) {
        uint32_t place = mmiod_view_place(rows[row].space, rows[row].kind, rows[row].address);
        if (rows[row].kind == MMIOD_PUBLISHED_KIND_DEVICE)
            continue;
        if (rows[row].kind >= MMIOD_PUBLISHED_KIND_SPAN) {
            if (view->span_count < MMIOD_VIEW_SPANS) {
                struct mmiod_view_span *span = &view->spans[view->span_count++];
                span->first = rows[row].address;
                span->last = rows[row].address + (rows[row].since - 1);
                span->space = rows[row].space;
                span->row = (uint16_t)row;
            }
            continue;
        }
        while (view->places[place])
            place = (place + 1) & (MMIOD_VIEW_PLACES - 1);
        view->places[place] = (uint16_t)(row + 1);
    }
    view->generation = generation;
    return !(generation & 1) && generation == mmiod_generation(shared);
}

/* Whether there is a table, and the view is one of it. */
static inline int mmiod_view_ready(struct mmiod_client *client)
{
    uint64_t generation;

    if (!client->view || !mmiod_slot_usable(client) || !mmiod_published(client->shared))
        return 0;
    generation = mmiod_generation(client->shared);
    return !(generation & 1) &&
           (generation == client->view->generation || mmiod_view_build(client->view, client->shared));
}

/* What a row allows now; 0 also while its device is withdrawn.  `gate` gets its device's policy. */
static inline uint64_t mmiod_row_policy(const struct mmiod_published_row *rows,
                                        const struct mmiod_published_row *row, uint64_t *gate)
{
    *gate = __atomic_load_n(&rows[row->device % MMIOD_VIEW_PLACES].policy, __ATOMIC_ACQUIRE);
    return *gate & MMIOD_PUBLISHED_POLICY_OPEN ? __atomic_load_n(&row->policy, __ATOMIC_ACQUIRE) : 0;
}

/* Whether it still is what it was: what was read in between is true. */
static inline int mmiod_row_stands(const struct mmiod_client *client, const struct mmiod_published_row *row,
                                   uint64_t policy, uint64_t gate)
{
    const struct mmiod_published_row *rows = mmiod_rows(client->shared);

    return __atomic_load_n(&row->policy, __ATOMIC_ACQUIRE) == policy &&
           __atomic_load_n(&rows[row->device % MMIOD_VIEW_PLACES].policy, __ATOMIC_ACQUIRE) == gate &&
           mmiod_generation(client->shared) == client->view->generation;
}

/* The row of one register that an access is for, if that allows it now, else NULL. */
static inline const struct mmiod_published_row *mmiod_row_at(const struct mmiod_client *client, uint8_t space,
                                                             uint8_t kind, uint64_t address, uint16_t size)
{
    const struct mmiod_published_row *rows = mmiod_rows(client->shared);
    uint64_t base = address, gate, tried = ~address;
    uint64_t unit;

    for (unit = 1; unit <= 8; unit *= 2) {
        uint32_t place;
        base = address & ~(unit - 1);
        if (base == tried)
            continue;
        tried = base;
        place = mmiod_view_place(space, kind, base);
        for (; client->view->places[place]; place = (place + 1) & (MMIOD_VIEW_PLACES - 1)) {
            const struct mmiod_published_row *row = &rows[client->view->places[place] - 1];
            if (row->address == base && row->space == space && row->kind == kind && size >= row->least &&
                address - base + size <= row->size && (address - base) % size == 0 &&
                (uint8_t)mmiod_row_policy(rows, row, &gate)) /* above its bits is the version */
                return row;
        }
    }
    return NULL;
}

/* The span or window that an access lies in, if it is there now, else NULL. */
static inline const struct mmiod_published_row *mmiod_span_at(const struct mmiod_client *client, uint8_t space,
                                                              uint64_t address, uint16_t size)
{
    const struct mmiod_published_row *rows = mmiod_rows(client->shared);
    uint32_t n;

    for (n = 0; n < client->view->span_count; n++) {
        const struct mmiod_view_span *span = &client->view->spans[n];
        if (span->space == space && address >= span->first && address <= span->last &&
            size - 1u <= span->last - address)
            return &rows[span->row];
    }
    return NULL;
}

/* Whether a posted write changes what `row` is about: it is to a register that `affected` names. */
static inline int mmiod_affects(const struct mmiod_client *client, const struct mmiod_shared_posted *entry,
                                const struct mmiod_published_row *row)
{
    const struct mmiod_published_row *rows = mmiod_rows(client->shared);
    uint64_t unit, tried = ~entry->address;
    int known = 0;

    for (unit = 1; unit <= 8; unit *= 2) {
        uint64_t base = entry->address & ~(unit - 1);
        uint32_t place = mmiod_view_place(entry->space, MMIOD_PUBLISHED_KIND_WRITE, base);
        if (base == tried)
            continue;
        tried = base;
        for (; client->view->places[place]; place = (place + 1) & (MMIOD_VIEW_PLACES - 1)) {
            uint32_t number = client->view->places[place] - 1u;
            const struct mmiod_published_row *found = &rows[number];
            if (found->address != base || found->space != entry->space ||
                found->kind != MMIOD_PUBLISHED_KIND_WRITE || entry->address - base >= found->size)
                continue;
            known = 1;
            number -= row->device + 1;
            if (found->device == row->device && number < 64 && row->affected >> number & 1)
                return 1;
        }
    }
    return !known; /* nobody knows what it changes */
}

/*
 * How many vCPUs have posted writes under way that change what `row` is about; `value` gets the
 * last one's.
 */
static inline uint32_t mmiod_undrained(const struct mmiod_client *client,
                                       const struct mmiod_published_row *row, uint64_t *value)
{
    uint32_t vcpu, found = 0;

    if (!row->affected)
        return 0;
    for (vcpu = 0; vcpu < client->shared->slots; vcpu++) {
        const struct mmiod_shared_slot *slot = mmiod_slot(client->shared, vcpu);
        uint64_t posted = __atomic_load_n(&slot->posted, __ATOMIC_ACQUIRE);
        uint64_t applied = __atomic_load_n(&slot->applied, __ATOMIC_ACQUIRE);
        for (; posted > applied; posted--) {
            const struct mmiod_shared_posted *entry = &slot->ring[posted % MMIOD_SHARED_RING];
            if (!mmiod_affects(client, entry, row))
                continue;
            *value = entry->value;
            found++;
            break;
        }
    }
    return found;
}

/* Waits a little while until no posted write is under way that changes what `row` is about. */
static inline int mmiod_drained(struct mmiod_client *client, const struct mmiod_published_row *row)
{
    uint32_t looks = client->spin;
    uint64_t value;

    if (!mmiod_undrained(client, row, &value))
        return 1;
    client->view->waits++;
    while (looks-- > 0) {
#ifdef __x86_64__
        __builtin_ia32_pause();
#endif
        if (!mmiod_undrained(client, row, &value))
            return 1;
    }
    return 0;
}

/*
 * What posted writes under way leave in a register that echoes them: 1, if they are one vCPU's and
 * all that `row` would wait for, else 0.
 */
static inline int mmiod_echo(const struct mmiod_client *client, const struct mmiod_published_row *row,
                             uint64_t *written)
{
    uint32_t vcpu, writers = 0;

    for (vcpu = 0; vcpu < client->shared->slots; vcpu++) {
        const struct mmiod_shared_slot *slot = mmiod_slot(client->shared, vcpu);
        uint64_t posted = __atomic_load_n(&slot->posted, __ATOMIC_ACQUIRE);
        uint64_t applied = __atomic_load_n(&slot->applied, __ATOMIC_ACQUIRE);
        uint64_t sequence, last = 0;
        for (sequence = posted; sequence > applied; sequence--) {
            const struct mmiod_shared_posted *entry = &slot->ring[sequence % MMIOD_SHARED_RING];
            if (!mmiod_affects(client, entry, row))
                continue;
            if (entry->space != row->space || entry->address != row->address || entry->size != row->size)
                return 0;
            if (!last)
                *written = entry->value;
            last = sequence;
        }
        writers += last != 0;
    }
    return writers == 1;
}

/* A counter's value now; 0 where <time.h> hides POSIX (define _POSIX_C_SOURCE before it). */
static inline int mmiod_count(const struct mmiod_client *client, const struct mmiod_published_row *row,
                              uint64_t *value)
{
#ifdef CLOCK_MONOTONIC
    const struct mmiod_published_header *header;
    struct timespec time;
    uint64_t passed;

    header = (const struct mmiod_published_header *)(const void *)mmiod_published(client->shared);
    clock_gettime(CLOCK_MONOTONIC, &time);
    passed = (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec - header->origin_ns - row->since;
    *value = row->value + passed / 1000000000u * row->rate + passed % 1000000000u * row->rate / 1000000000u;
    if (row->bits < 64)
        *value &= ((uint64_t)1 << row->bits) - 1;
    return 1;
#else
    (void)client, (void)row, (void)value;
    return 0;
#endif
}

static inline uint64_t mmiod_part(uint64_t value, uint64_t skip, uint16_t size)
{
    value >>= 8 * skip;
    return size < 8 ? value & (((uint64_t)1 << 8 * size) - 1) : value;
}

/*
 * What a window leads to: 1, and `space` and `address` are those behind it; 2: nothing, which reads
 * ones; 0: nobody knows without a message.
 */
static inline int mmiod_through(const struct mmiod_client *client, const struct mmiod_published_row *row,
                                uint8_t *space, uint64_t *address)
{
    const struct mmiod_published_row *rows = mmiod_rows(client->shared);
    uint64_t offset = *address - row->address, value = 0, gate, latched = 0;
    uint32_t latches = row->kind == MMIOD_PUBLISHED_KIND_CONFIG_WINDOW ? mmiod_undrained(client, row, &latched) : 0;
    uint64_t policy = mmiod_row_policy(rows, row, &gate);

    value = latches ? latched : __atomic_load_n(&row->value, __ATOMIC_ACQUIRE);
    *space = (uint8_t)row->rate;
    if (latches > 1 || !(policy & MMIOD_PUBLISHED_POLICY_READ) || !mmiod_row_stands(client, row, policy, gate))
        return 0;
    if (row->kind == MMIOD_PUBLISHED_KIND_WINDOW) {
        *address = value + offset;
        return 1;
    }
    *address = (value >> 8 & 0xffff) << 12 | (value & 0xfc) | offset;
    return value >> 31 & 1 ? 1 : 2;
}

/* Reads 1, 2, 4 or 8 bytes without a message: 1, or 0 if one is needed. */
static inline int mmiod_read_published(struct mmiod_client *client, uint8_t space, uint64_t address,
                                       uint16_t size, uint64_t *value)
{
    const struct mmiod_published_row *row;
    uint64_t policy, gate, found, written = 0;
    int hops, echoed;

    if (!mmiod_view_ready(client))
        return 0;
    for (hops = 0; !(row = mmiod_row_at(client, space, MMIOD_PUBLISHED_KIND_READ, address, size)); hops++) {
        int through;
        row = mmiod_span_at(client, space, address, size);
        if (!row || hops > 1 || address % size)
            return 0;
        if (row->kind == MMIOD_PUBLISHED_KIND_SPAN)
            break;
        through = mmiod_through(client, row, &space, &address);
        if (through == 0)
            return 0;
        if (through == 2) {
            *value = mmiod_part(~(uint64_t)0, 0, size);
            client->view->loads++;
            return 1;
        }
    }
    policy = mmiod_row_policy(mmiod_rows(client->shared), row, &gate);
    echoed = policy & MMIOD_PUBLISHED_POLICY_ECHO && mmiod_echo(client, row, &written);
    if (!echoed && !mmiod_drained(client, row))
        return 0;
    policy = mmiod_row_policy(mmiod_rows(client->shared), row, &gate);
    if (policy & MMIOD_PUBLISHED_POLICY_READ)
        found = __atomic_load_n(&row->value, __ATOMIC_ACQUIRE);
    else if (!(policy & MMIOD_PUBLISHED_POLICY_COUNTER) || !mmiod_count(client, row, &found))
        return 0;
    if (!mmiod_row_stands(client, row, policy, gate))
        return 0;
    if (echoed)
        found = (found & ~row->rate) | (written & row->rate);
    *value = mmiod_part(found, row->kind == MMIOD_PUBLISHED_KIND_SPAN ? 0 : address - row->address, size);
    client->view->loads++;
    return 1;
}

/* Posts a write of 1, 2, 4 or 8 bytes if nobody has to wait for it: 1; 0 if it has to be sent; or an error. */
static inline int mmiod_post_published(struct mmiod_client *client, uint8_t space, uint64_t address,
                                       uint16_t size, uint64_t value)
{
    const struct mmiod_published_row *row;
    uint64_t policy, gate;
    int hops, result;

    if (!mmiod_view_ready(client))
        return 0;
    for (hops = 0; !(row = mmiod_row_at(client, space, MMIOD_PUBLISHED_KIND_WRITE, address, size)); hops++) {
        row = mmiod_span_at(client, space, address, size);
        if (!row || hops > 1 || address % size)
            return 0;
        if (row->kind == MMIOD_PUBLISHED_KIND_SPAN)
            break;
        result = mmiod_through(client, row, &space, &address);
        if (result != 1)
            return 0;
    }
    if (!mmiod_drained(client, row))
        return 0;
    policy = mmiod_row_policy(mmiod_rows(client->shared), row, &gate);
    if (!(policy & MMIOD_PUBLISHED_POLICY_POST) || !mmiod_row_stands(client, row, policy, gate))
        return 0;
    client->view->posts++;
    if (row->kind == MMIOD_PUBLISHED_KIND_SPAN)
        return 1; /* nobody is there */
    result = mmiod_post(client, space, address, size, value);
    return result < 0 ? result : 1;
}

/* Reads 1, 2, 4 or 8 bytes, without a message where none is needed. */
static inline int mmiod_load(struct mmiod_client *client, uint8_t space, uint64_t address, uint16_t size,
                             uint64_t *value)
{
    return mmiod_read_published(client, space, address, size, value)
               ? 0
               : mmiod_read(client, space, address, size, value);
}

/* Writes 1, 2, 4 or 8 bytes, and waits only where that is needed. */
static inline int mmiod_store(struct mmiod_client *client, uint8_t space, uint64_t address, uint16_t size,
                              uint64_t value)
{
    int result = mmiod_post_published(client, space, address, size, value);

    return result == 0 ? mmiod_write(client, space, address, size, value) : result < 0 ? result : 0;
}

#endif /* MMIOD_EXIT_LAYOUT_ONLY */
