/* A shim of ACRN's device manager: acrn EXIT_SOCKET VM.  See test_sourced.py. */
#include "mmiod_exit.h"
#include <linux/acrn.h>
#include <stdio.h>
#include <stdlib.h>

static struct mmiod_client client;

static int must(int result)
{
    if (result >= 0)
        return result;
    fprintf(stderr, "%s; %.40s: %.120s\n", strerror(-result), client.error.name, client.error.reason);
    exit(1);
}

/* One slot, as HSM hands it over; the type of the answer. */
static int serve(struct acrn_io_request *slot)
{
    int answer;

    must(mmiod_source(&client, slot, sizeof(*slot)));
    answer = must(mmiod_exchange(&client));
    if (answer == MMIOD_MSG_REPLY)
        must(mmiod_reply(&client, slot, sizeof(*slot)));
    return answer;
}

static uint32_t port(uint32_t direction, uint64_t address, uint32_t value)
{
    struct acrn_io_request slot;

    memset(&slot, 0, sizeof(slot));
    slot.type = ACRN_IOREQ_TYPE_PORTIO;
    slot.processed = ACRN_IOREQ_STATE_PROCESSING;
    slot.reqs.pio_request.direction = direction;
    slot.reqs.pio_request.address = address;
    slot.reqs.pio_request.size = 4;
    slot.reqs.pio_request.value = value;
    must(serve(&slot) == MMIOD_MSG_REPLY ? 0 : -EPROTO);
    return slot.reqs.pio_request.value;
}

int main(int argc, char **argv)
{
    struct acrn_io_request slot;
    char wrong[8];

    if (argc != 3)
        return 2;
    mmiod_client_init(&client, argv[1], argv[2]);
    client.hello.source = MMIOD_SOURCE_ACRN;
    must(mmiod_open(&client));
    port(ACRN_IOREQ_DIR_WRITE, 0x104, 5);
    port(ACRN_IOREQ_DIR_WRITE, 0x104, 7);
    printf("%u\n", port(ACRN_IOREQ_DIR_READ, 0x10c, 0));
    printf("%s\n", mmiod_reply(&client, wrong, sizeof(wrong)) == -EPROTO ? "another length" : "?");
    memset(&slot, 0, sizeof(slot));
    slot.type = 3; /* reserved */
    printf("%s\n", serve(&slot) == MMIOD_MSG_FORWARD ? "forward" : "?");
    mmiod_close(&client);
    return 0;
}
