/* Vector registers between an XSAVE area and the protocol: see test_xsave.py. */
#include "mmiod_exit.h"

#include <stdio.h>
#include <stdlib.h>

/* Where AMD's processors have the components. */
static const struct mmiod_xsave at = {576, 832, 896, 1408};
static const struct mmiod_xsave without_avx = {0, 0, 0, 0};
static const struct mmiod_others others = {0x80000005, {0x1000, 0x2000, 0x3000, 0xffffffff80004000}};
static struct mmiod_client client;
static union mmiod_message message;
static uint8_t area[2432];

static int supply(uint32_t registers)
{
    struct mmiod_vcpu vcpu;

    memset(&vcpu, 0, sizeof(vcpu));
    if (!mmiod_raw(&client, &vcpu, "", 0))
        return 1;
    client.in.need_registers.registers = registers;
    if (mmiod_supply_registers(&client, area, &at, &others) < 0)
        return 1;
    return fwrite(client.out.bytes, 1, client.out.header.size, stdout) != client.out.header.size;
}

static int apply(const struct mmiod_xsave *where)
{
    if (fread(message.bytes, 1, sizeof(message), stdin) < sizeof(message.header))
        return 1;
    mmiod_apply_registers(area, where, &message);
    return fwrite(area, 1, sizeof(area), stdout) != sizeof(area);
}

int main(int argc, char **argv)
{
    if (argc < 2 || fread(area, 1, sizeof(area), stdin) != sizeof(area))
        return 1;
    if (!strcmp(argv[1], "apply"))
        return apply(&at);
    if (!strcmp(argv[1], "apply-sse"))
        return apply(&without_avx);
    return supply((uint32_t)atoi(argv[1]));
}
