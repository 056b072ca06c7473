/* XSAVE's image of registers that hold a pattern, to standard output: what this processor's layout is. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint8_t pattern[32][64] __attribute__((aligned(64)));
static uint64_t masks[8];
static uint8_t image[4096] __attribute__((aligned(64)));

#define ZMM(n) __asm__ volatile("vmovdqu64 %0, %%zmm" #n : : "m"(pattern[n]));
#define K(n) __asm__ volatile("kmovq %0, %%k" #n : : "m"(masks[n]));

int main(void)
{
    for (int n = 0; n < 32; n++)
        for (int at = 0; at < 64; at++)
            pattern[n][at] = (uint8_t)(n * 64 + at * 5 + 1);
    for (int n = 0; n < 8; n++)
        masks[n] = 0x0101010101010101u * (unsigned)(n + 1);
    ZMM(0) ZMM(1) ZMM(2) ZMM(3) ZMM(4) ZMM(5) ZMM(6) ZMM(7)
    ZMM(8) ZMM(9) ZMM(10) ZMM(11) ZMM(12) ZMM(13) ZMM(14) ZMM(15)
    ZMM(16) ZMM(17) ZMM(18) ZMM(19) ZMM(20) ZMM(21) ZMM(22) ZMM(23)
    ZMM(24) ZMM(25) ZMM(26) ZMM(27) ZMM(28) ZMM(29) ZMM(30) ZMM(31)
    K(0) K(1) K(2) K(3) K(4) K(5) K(6) K(7)
    __asm__ volatile("xsave64 %0" : "+m"(image) : "a"(0xe7), "d"(0));
    return fwrite(image, sizeof image, 1, stdout) == 1 ? 0 : 1;
}
