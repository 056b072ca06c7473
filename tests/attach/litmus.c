/*
 * One side of Dekker's pattern, against Python: litmus MEMORY ROUNDS
 *
 * In round n Python stores n into `python` and looks at `peer`, and we do the reverse, with a
 * fence.  A round in which each saw the other's old value is a wake-up that nobody gets.  Cells
 * go round in a ring, each in a cache line of its own.  What we saw is a byte per round.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CELLS 2048
#define LOOKS 20000

struct cell {
    volatile uint64_t value;
    uint64_t rest[7];
};
struct memory {
    struct cell python[CELLS], peer[CELLS], done;
    uint8_t saw[];
};

int main(int argc, char **argv)
{
    uint64_t rounds = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    int descriptor = argc == 3 ? open(argv[1], O_RDWR) : -1;
    struct memory *memory;
    uint32_t random = 1;

    if (descriptor < 0)
        err(1, "litmus MEMORY ROUNDS");
    memory = mmap(NULL, sizeof(*memory) + rounds, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (memory == MAP_FAILED)
        err(1, "mmap");
    memory->done.value = 1; /* there is no round 0 */
    for (uint64_t n = 1; n < rounds; n++) {
        for (unsigned looks = 1; memory->python[(n - 1) % CELLS].value != n - 1 &&
                                 memory->python[n % CELLS].value != n; looks++)
            if (looks % LOOKS == 0)
                sched_yield(); /* where other programs are busy, both of us may have one CPU */
        random = random * 1664525u + 1013904223u;
        for (volatile uint32_t wait = random >> 25; wait > 0; wait--)
            ;
        memory->peer[n % CELLS].value = n;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        memory->saw[n] = memory->python[n % CELLS].value == n;
        memory->done.value = n;
    }
    return 0;
}
