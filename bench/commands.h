/*
 * What all clients of the benchmark share: a loop over commands.
 *
 * A line of standard input is NAME COUNT GAP_NS: COUNT round trips of that name, with so much
 * time between them.  The answer on standard output is COUNT uint64_t, ns each.  The client sleeps
 * in a gap, so that it is awake for no longer than a vCPU would be.
 */
#ifndef COMMANDS_H
#define COMMANDS_H

#include <err.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#define MAX_COUNT (1u << 20)

struct trip {
    const char *name;
    void (*make)(void);  /* timed */
    void (*check)(void); /* ends the program if the answer is wrong; may be NULL */
};

static uint64_t samples[MAX_COUNT];

static inline uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void make_trips(const struct trip *trip, unsigned int count, long gap_ns)
{
    const struct timespec gap = { .tv_sec = gap_ns / 1000000000, .tv_nsec = gap_ns % 1000000000 };

    for (unsigned int i = 0; i < count; i++) {
        if (gap_ns)
            nanosleep(&gap, NULL);
        uint64_t start = now_ns();
        trip->make();
        samples[i] = now_ns() - start;
        if (trip->check)
            trip->check();
    }
}

static inline void tell(unsigned int count)
{
    if (fwrite(samples, sizeof(samples[0]), count, stdout) != count || fflush(stdout) != 0)
        err(1, "standard output");
}

static inline const struct trip *trip_called(const struct trip *trips, size_t length, const char *name)
{
    for (size_t i = 0; i < length; i++)
        if (strcmp(trips[i].name, name) == 0)
            return &trips[i];
    errx(1, "no round trip is called %s", name);
}

/* Whether there is one more. */
static inline int next_command(char name[32], unsigned int *count, long *gap_ns)
{
    if (scanf("%31s %u %ld", name, count, gap_ns) != 3)
        return 0;
    if (*count > MAX_COUNT)
        errx(1, "at most %u round trips at once", MAX_COUNT);
    prctl(PR_SET_TIMERSLACK, 1); /* else a gap is 50 us longer */
    return 1;
}

static inline int take_commands(const struct trip *trips, size_t length)
{
    char name[32];
    unsigned int count;
    long gap_ns;

    while (next_command(name, &count, &gap_ns)) {
        make_trips(trip_called(trips, length, name), count, gap_ns);
        tell(count);
    }
    return 0;
}

#endif
