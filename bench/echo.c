/*
 * The floor: a server on the same socket type that does nothing.
 *
 * Standard input is its end of a SOCK_SEQPACKET socket.  An exit is answered by as many
 * bytes as its completion would have.
 */
#include <err.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mmiod_exit.h"

static union {
    struct mmiod_header header;
    char bytes[MMIOD_EXIT_MAX_MESSAGE];
} message;

int main(void)
{
    for (;;) {
        ssize_t size = recv(STDIN_FILENO, &message, sizeof(message), 0);
        if (size < 0)
            err(1, "recv");
        if (size == 0)
            return 0;
        size_t answer = message.header.type == MMIOD_MSG_EXIT_DECODED ? sizeof(struct mmiod_msg_values)
                                                                      : sizeof(struct mmiod_msg_done);
        if (send(STDIN_FILENO, &message, answer, MSG_NOSIGNAL) < 0)
            err(1, "send");
    }
}
