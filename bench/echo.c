/*
 * The floors: servers that do nothing.
 *
 *     echo socket     standard input is its end of a SOCK_STREAM or SOCK_SEQPACKET socket; a
 *                     request begins with its own size and that of the answer
 *     echo spin       standard input is a memfd with a word: 1 is a request, 0 the answer
 */
#include <err.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define SPIN_LENGTH 4096
#define IDLE_SPINS 20000 /* then it sleeps a little, so that other rounds have this CPU */
#define NAP_US 1000

static char message[4096];

static int answer(void)
{
    for (;;) {
        uint32_t head[2];
        size_t length = 0;
        do {
            ssize_t found = recv(STDIN_FILENO, message + length, sizeof(message) - length, 0);
            if (found < 0)
                err(1, "recv");
            if (found == 0)
                return 0;
            length += (size_t)found;
            memcpy(head, message, sizeof(head));
        } while (length < head[0]);
        if (send(STDIN_FILENO, message, head[1], MSG_NOSIGNAL) < 0)
            err(1, "send");
    }
}

static int spin(void)
{
    _Atomic uint32_t *word = mmap(NULL, SPIN_LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, STDIN_FILENO, 0);
    unsigned int idle = 0;

    if (word == MAP_FAILED)
        err(1, "mmap");
    for (;;) {
        if (atomic_load_explicit(word, memory_order_acquire) == 1) {
            atomic_store_explicit(word, 0, memory_order_release);
            idle = 0;
        } else if (++idle > IDLE_SPINS) {
            usleep(NAP_US);
        }
    }
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "socket") == 0)
        return answer();
    if (argc == 2 && strcmp(argv[1], "spin") == 0)
        return spin();
    errx(2, "usage: echo socket|spin");
}
