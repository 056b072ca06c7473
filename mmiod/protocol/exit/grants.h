/*
 * What needs no exit at all (docs/protocol.md, "Grants"): pages that the guest reads by itself,
 * doorbells that its kernel signals.  They stand where the caller puts them:
 *
 *     static struct mmiod_fixtures fixtures;
 *
 *     fixtures.change = change;
 *     client.hello.required = MMIOD_CAPABILITY_SHARED_MEMORY | MMIOD_CAPABILITY_PUBLISHED |
 *                             MMIOD_CAPABILITY_GRANTS;
 *     client.fixtures = &fixtures;                 // of the client that opens the session
 *     mmiod_share(&client, &shared, memfd);        // MMIOD_PAGES_BYTES behind MMIOD_PUBLISHED_BYTES
 *
 * The client takes them down again, answers REVOKE then, and rings what may not have been heard.
 * For that it must hear the daemon while its guest runs: see mmiod_poll.
 */
#ifndef MMIOD_EXIT_LAYOUT_ONLY

#define MMIOD_PAGES_BYTES 131072u /* room for 32 pages */
#define MMIOD_FIXTURES 96u        /* those, and 64 doorbells: more are not granted */

struct mmiod_fixture {
    struct mmiod_msg_grant grant;        /* number 0: nothing is here */
    void *page;                          /* of a PAGE: the 4096 bytes; NULL of a doorbell */
    int doorbell;                        /* of a DOORBELL: its eventfd, closed behind `change`; else -1 */
};

struct mmiod_fixtures {
    /*
     * The caller's.  It puts one up (`stands`), for KVM as a memory slot with KVM_MEM_READONLY
     * or as an ioeventfd, or takes it out of reach of all vCPUs; `place` is a number below
     * MMIOD_FIXTURES, of its own as long as it stands.  It may be called in any function that
     * receives, also by mmiod_close, and must not use the client.  Anything but 0 leaves a
     * grant unused.
     */
    int (*change)(void *context, const struct mmiod_fixture *fixture, uint32_t place, int stands);
    void *context;

    /* The client's own. */
    const struct mmiod_shared *shared;   /* where pages are */
    int again;                           /* what comes may have been rung before, and nobody heard it */
    struct mmiod_fixture places[MMIOD_FIXTURES];
};

/* The one with this number, with 0 a place for another one; NULL: there is none. */
static inline struct mmiod_fixture *mmiod_fixture_of(struct mmiod_fixtures *fixtures, uint32_t number)
{
    uint32_t place;

    for (place = 0; place < MMIOD_FIXTURES; place++)
        if (fixtures->places[place].grant.number == number)
            return &fixtures->places[place];
    return NULL;
}

static inline int mmiod_fixture_change(struct mmiod_fixtures *fixtures, const struct mmiod_fixture *fixture,
                                       int stands)
{
    return fixtures->change(fixtures->context, fixture, (uint32_t)(fixture - fixtures->places), stands);
}

static inline void mmiod_fixture_forget(struct mmiod_fixture *fixture)
{
    if (fixture->doorbell >= 0)
        close(fixture->doorbell);
    fixture->grant.number = 0;
}

/* The 4096 bytes of a PAGE; NULL of a doorbell, and if they are not in the shared memory. */
static inline void *mmiod_granted_page(const struct mmiod_fixtures *fixtures,
                                       const struct mmiod_msg_grant *grant)
{
    size_t length = fixtures->shared ? fixtures->shared->length : 0;

    if (grant->kind != MMIOD_GRANT_KIND_PAGE || length < MMIOD_SHARED_PAGE ||
        grant->value > length - MMIOD_SHARED_PAGE)
        return NULL;
    return fixtures->shared->memory + grant->value;
}

/* Whether a GRANT has what its kind needs. */
static inline int mmiod_fixture_whole(const struct mmiod_fixture *fixture)
{
    switch (fixture->grant.number ? fixture->grant.kind : -1) {
    case MMIOD_GRANT_KIND_PAGE:
        return fixture->page != NULL;
    case MMIOD_GRANT_KIND_DOORBELL:
        return fixture->doorbell >= 0;
    default:
        return 0;
    }
}

/*
 * Puts up what `grant` allows; `descriptor` came with it, and is not the caller's any more.  What
 * was rung on an earlier connection, or before a RESTORE, may be lost: a later doorbell is signalled.
 */
static inline int mmiod_fixture_put(struct mmiod_fixtures *fixtures, const struct mmiod_msg_grant *grant,
                                    int descriptor)
{
    struct mmiod_fixture *fixture = mmiod_fixture_of(fixtures, 0);
    struct mmiod_fixture one = {*grant, mmiod_granted_page(fixtures, grant), descriptor};
    int whole = mmiod_fixture_whole(&one);

    if (!fixture || !whole) {
        mmiod_fixture_forget(&one);
        return whole ? 0 : -EPROTO;
    }
    *fixture = one;
    if (mmiod_fixture_change(fixtures, fixture, 1))
        mmiod_fixture_forget(fixture);
    else if (!one.page && fixtures->again)
        eventfd_write(descriptor, 1);
    return 0;
}

/* Takes one down; one that was left unused is not there. */
static inline void mmiod_fixture_take(struct mmiod_fixtures *fixtures, uint32_t number)
{
    struct mmiod_fixture *fixture = number ? mmiod_fixture_of(fixtures, number) : NULL;

    if (!fixture)
        return;
    mmiod_fixture_change(fixtures, fixture, 0);
    mmiod_fixture_forget(fixture);
}

/* The connection has ended, or is another daemon's: takes all down. */
static inline void mmiod_fixtures_clear(struct mmiod_fixtures *fixtures)
{
    uint32_t place;

    for (place = 0; place < MMIOD_FIXTURES; place++)
        mmiod_fixture_take(fixtures, fixtures->places[place].grant.number);
    fixtures->again |= fixtures->shared != NULL;
}

/* Signals all doorbells that stand, and from now on each that comes. */
static inline void mmiod_fixtures_ring(struct mmiod_fixtures *fixtures)
{
    uint32_t place;

    fixtures->again = 1;
    for (place = 0; place < MMIOD_FIXTURES; place++)
        if (fixtures->places[place].grant.number && !fixtures->places[place].page)
            eventfd_write(fixtures->places[place].doorbell, 1);
}

#endif /* MMIOD_EXIT_LAYOUT_ONLY */
