/*
 * libvfio-user's C server with as little behind it as can be: region 0 answers reads.
 *
 *     libvfio_user SOCKET
 */
#include <err.h>
#include <errno.h>
#include <string.h>
#include <vfio-user/libvfio-user.h>

#define PATTERN 0x6d6d696fu

static ssize_t access_region(vfu_ctx_t *context, char *buffer, size_t count, loff_t offset, bool is_write)
{
    const unsigned int pattern = PATTERN;
    (void)context;
    (void)offset;
    if (!is_write)
        memcpy(buffer, &pattern, count < sizeof(pattern) ? count : sizeof(pattern));
    return (ssize_t)count;
}

int main(int argc, char **argv)
{
    vfu_ctx_t *context;

    if (argc != 2)
        errx(2, "usage: libvfio_user SOCKET");
    context = vfu_create_ctx(VFU_TRANS_SOCK, argv[1], 0, NULL, VFU_DEV_TYPE_PCI);
    if (!context || vfu_pci_init(context, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_NORMAL, 0) < 0 ||
        vfu_setup_region(context, VFU_PCI_DEV_BAR0_REGION_IDX, 4096, access_region,
                         VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM, NULL, 0, -1, 0) < 0 ||
        vfu_realize_ctx(context) < 0 || vfu_attach_ctx(context) < 0)
        err(1, "libvfio-user");
    while (vfu_run_ctx(context) >= 0 || errno == EINTR)
        ;
    vfu_destroy_ctx(context);
    return 0;
}
