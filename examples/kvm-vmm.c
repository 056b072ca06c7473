/*
 * The smallest hypervisor that gets its devices from mmiod: one vCPU on KVM, firmware and RAM.
 *
 *     kvm-vmm EXIT_SOCKET VM FIRMWARE [MIB]
 *
 * There is no device here, no timer and no interrupt controller: KVM says which access the
 * guest makes, mmiod answers it.  docs/attach.md walks through this file.  Exit status: the
 * guest's, 0 after a shutdown; 1 when something failed.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "mmiod_exit.h"

#define MIB (1ul << 20)
#define FOUR_GIB (4096 * MIB)
#define MAX_RAM (3 * 1024 * MIB) /* PCI devices have the addresses from 0xc0000000 */
#define VGA 0xa0000ul            /* to 0xbffff: no RAM, so that accesses are exits */
#define SHADOW 0xc0000ul         /* RAM again; below 1 MiB is the firmware's last part */
#define SHADOW_COPY (MIB / 8)
#define FIRST_PAGE 16            /* KVM's slots from here on are pages that were granted */

static struct mmiod_client client = { .socket = -1, .descriptor = -1 };
static struct mmiod_shared shared;     /* where exits go through, and what is below is */
static struct mmiod_view view;         /* registers that need no message */
static struct mmiod_fixtures fixtures; /* what needs no exit */
static int vm = -1, vcpu = -1; /* descriptors of KVM */
static struct kvm_run *run;    /* what KVM and we share about the vCPU */
static uint8_t *memory;        /* RAM, and behind it the firmware */
static size_t run_size, memory_size;
static struct {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    struct kvm_vcpu_events events;
} power_on; /* the vCPU's state after a reset */
static struct mmiod_msg_request request; /* what a device asks for; kind 0: nothing */

/* The result of a call that has to succeed. */
static int must(const char *what, int result)
{
    if (result < 0)
        err(1, "%s", what);
    return result;
}

static void *must_map(size_t length, int descriptor)
{
    void *mapped = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (mapped == MAP_FAILED)
        err(1, "mmap");
    return mapped;
}

/* However we end. */
static void tear_down(void)
{
    mmiod_close(&client);
    if (client.shared) {
        mmiod_shared_close(&shared);
        close(shared.descriptors[0]);
    }
    munmap(memory, memory_size);
    munmap(run, run_size);
    close(vcpu);
    close(vm);
}

/* --- guest memory, for KVM and for mmiod alike --------------------------------------- */

/* Sealed, so that mmiod may map it: it cannot shrink under the daemon. */
static int sealed_memory(size_t length)
{
    int descriptor = must("memfd", memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING));

    must("memfd", ftruncate(descriptor, (off_t)length));
    must("memfd", fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
    return descriptor;
}

/* A slot: the bytes of the guest's memory from `offset`. */
static void plug(uint32_t number, uint64_t gpa, uint64_t length, int memfd, uint64_t offset, bool read_only)
{
    struct kvm_userspace_memory_region region = {
        .slot = number,
        .flags = read_only ? KVM_MEM_READONLY : 0,
        .guest_phys_addr = gpa,
        .memory_size = length,
        .userspace_addr = (uintptr_t)(memory + offset),
    };

    if (mmiod_map(&client, number, gpa, length, memfd, offset, read_only ? MMIOD_MAP_FLAG_READ_ONLY : 0) < 0)
        errx(1, "mmiod does not map slot %u: %.120s", number, client.error.reason);
    must("KVM_SET_USER_MEMORY_REGION", ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
}

/* RAM without the VGA hole, and the firmware below 4 GiB, where the vCPU begins. */
static void build_memory(size_t ram_size, const char *firmware)
{
    int file = must(firmware, open(firmware, O_RDONLY | O_CLOEXEC));
    size_t rom_size = (size_t)lseek(file, 0, SEEK_END);

    if (rom_size < SHADOW_COPY || rom_size > 16 * MIB || rom_size % 4096)
        errx(1, "%s: firmware has 128 KiB to 16 MiB, a multiple of 4 KiB", firmware);
    memory_size = ram_size + rom_size;
    int memfd = sealed_memory(memory_size);
    memory = must_map(memory_size, memfd);
    if (pread(file, memory + ram_size, rom_size, 0) != (ssize_t)rom_size)
        err(1, "%s", firmware);
    memcpy(memory + MIB - SHADOW_COPY, memory + memory_size - SHADOW_COPY, SHADOW_COPY);
    plug(0, 0, VGA, memfd, 0, false);
    plug(1, SHADOW, ram_size - SHADOW, memfd, SHADOW, false);
    plug(2, FOUR_GIB - rom_size, rom_size, memfd, ram_size, true);
    close(memfd);
    close(file);
}

/* --- what needs no message, and what needs no exit ----------------------------------- */

/* A page that the guest reads by itself: a slot whose writes are exits. */
static int show(const struct mmiod_fixture *page, uint32_t place, int stands)
{
    struct kvm_userspace_memory_region region = {
        .slot = FIRST_PAGE + place,
        .flags = KVM_MEM_READONLY,
        .guest_phys_addr = page->grant.address,
        .memory_size = stands ? 4096 : 0,
        .userspace_addr = (uintptr_t)page->page,
    };

    return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

/* A write that KVM signals to mmiod while the guest goes on. */
static int wire(const struct mmiod_fixture *bell, int stands)
{
    struct kvm_ioeventfd ioeventfd = {
        .datamatch = bell->grant.value,
        .addr = bell->grant.address,
        .len = bell->grant.size,
        .fd = bell->doorbell,
        .flags = KVM_IOEVENTFD_FLAG_DATAMATCH |
                 (bell->grant.space == MMIOD_SPACE_PIO ? KVM_IOEVENTFD_FLAG_PIO : 0) |
                 (stands ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };

    return ioctl(vm, KVM_IOEVENTFD, &ioeventfd);
}

/* Called by the client.  What KVM refuses stays an exit. */
static int change(void *context, const struct mmiod_fixture *fixture, uint32_t place, int stands)
{
    int result = fixture->page ? show(fixture, place, stands) : wire(fixture, stands);

    (void)context;
    return stands ? result : must("a grant does not end", result);
}

/* Exits go through memory instead of the socket, behind them come registers, behind those pages. */
static void share(void)
{
    int memfd = sealed_memory(2 * MMIOD_SHARED_PAGE + MMIOD_PUBLISHED_BYTES + MMIOD_PAGES_BYTES);

    if (mmiod_share(&client, &shared, memfd) < 0)
        errx(1, "mmiod does not share: %.120s", client.error.reason);
    client.view = &view;
}

/* --- the vCPU ------------------------------------------------------------------------ */

/* What KVM has, but for the local APIC: our interrupt controller is the PIC in mmiod. */
static void set_cpuid(int kvm)
{
    static uint64_t room[1024];
    struct kvm_cpuid2 *cpuid = (void *)room;

    cpuid->nent = (sizeof(room) - sizeof(*cpuid)) / sizeof(cpuid->entries[0]);
    must("KVM_GET_SUPPORTED_CPUID", ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid));
    for (uint32_t i = 0; i < cpuid->nent; i++)
        if (cpuid->entries[i].function == 1) {
            cpuid->entries[i].edx &= ~(1u << 9);  /* APIC */
            cpuid->entries[i].ecx &= ~(1u << 21); /* x2APIC */
        }
    must("KVM_SET_CPUID2", ioctl(vcpu, KVM_SET_CPUID2, cpuid));
}

static void build_vm(void)
{
    int kvm = must("/dev/kvm", open("/dev/kvm", O_RDWR | O_CLOEXEC));
    uint64_t identity_map = 0xfeffc000; /* with the TSS behind it: pages that KVM on Intel uses */

    vm = must("KVM_CREATE_VM", ioctl(kvm, KVM_CREATE_VM, 0));
    must("KVM_SET_IDENTITY_MAP_ADDR", ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map));
    must("KVM_SET_TSS_ADDR", ioctl(vm, KVM_SET_TSS_ADDR, identity_map + 4096));
    vcpu = must("KVM_CREATE_VCPU", ioctl(vm, KVM_CREATE_VCPU, 0));
    run_size = (size_t)must("KVM_GET_VCPU_MMAP_SIZE", ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    run = must_map(run_size, vcpu);
    set_cpuid(kvm);
    close(kvm);
    must("KVM_GET_REGS", ioctl(vcpu, KVM_GET_REGS, &power_on.regs));
    must("KVM_GET_SREGS", ioctl(vcpu, KVM_GET_SREGS, &power_on.sregs));
    must("KVM_GET_VCPU_EVENTS", ioctl(vcpu, KVM_GET_VCPU_EVENTS, &power_on.events));
}

/* KVM finishes an access when it is entered again: let it, or it would do so after the reset. */
static void reset_vcpu(void)
{
    run->immediate_exit = 1;
    ioctl(vcpu, KVM_RUN, 0);
    must("KVM_SET_REGS", ioctl(vcpu, KVM_SET_REGS, &power_on.regs));
    must("KVM_SET_SREGS", ioctl(vcpu, KVM_SET_SREGS, &power_on.sregs));
    must("KVM_SET_VCPU_EVENTS", ioctl(vcpu, KVM_SET_VCPU_EVENTS, &power_on.events));
}

/* --- what mmiod says unasked --------------------------------------------------------- */

/* A message has come: leave the guest, or do not enter it. */
static void on_message(int number)
{
    (void)number;
    run->immediate_exit = 1;
}

/* Called by the client.  A request ends whatever the vCPU waits for. */
static int on_event(void *context, const union mmiod_message *message)
{
    (void)context;
    if (message->header.type == MMIOD_MSG_WELCOME) { /* a new connection: its messages are to signal */
        must("F_SETOWN", fcntl(client.socket, F_SETOWN, getpid()));
        must("O_ASYNC", fcntl(client.socket, F_SETFL, O_ASYNC));
    }
    if (message->header.type == MMIOD_MSG_REQUEST)
        request = message->request;
    return message->header.type == MMIOD_MSG_REQUEST;
}

static int fulfil_request(void)
{
    if (request.kind == MMIOD_REQUEST_KIND_SHUTDOWN || request.kind == MMIOD_REQUEST_KIND_EXIT)
        exit((int)(request.value & 0xff));
    if (request.kind != MMIOD_REQUEST_KIND_RESET)
        errx(1, "a device requests %u, which this hypervisor does not do", request.kind);
    request.kind = 0;
    reset_vcpu();
    return mmiod_reset(&client, MMIOD_MACHINE);
}

/* --- exits --------------------------------------------------------------------------- */

/* An access of the guest.  What mmiod has published or lets us post needs no answer. */
static int perform(uint8_t space, uint8_t direction, uint64_t address, uint16_t size, uint32_t count,
                   int32_t stride, void *data)
{
    uint64_t value = 0;

    if (count > 1)
        return mmiod_access(&client, space, direction, address, size, count, stride, data);
    memcpy(&value, data, size);
    if (direction == MMIOD_DIRECTION_WRITE)
        return mmiod_store(&client, space, address, size, value);
    int result = mmiod_load(&client, space, address, size, &value);
    memcpy(data, &value, size);
    return result;
}

/* IN, OUT, INS and OUTS: KVM moves the registers, and the elements are in the shared pages. */
static int port_io(void)
{
    uint8_t direction = run->io.direction == KVM_EXIT_IO_OUT ? MMIOD_DIRECTION_WRITE : MMIOD_DIRECTION_READ;

    return perform(MMIOD_SPACE_PIO, direction, run->io.port, run->io.size, run->io.count, 0,
                   (uint8_t *)run + run->io.data_offset);
}

/* KVM has decoded the instruction.  A part of an access that crosses a page may have an odd size. */
static int mmio(void)
{
    uint32_t length = run->mmio.len;
    bool whole = (length & (length - 1)) == 0;
    uint8_t direction = run->mmio.is_write ? MMIOD_DIRECTION_WRITE : MMIOD_DIRECTION_READ;

    return perform(MMIOD_SPACE_MMIO, direction, run->mmio.phys_addr, whole ? (uint16_t)length : 1,
                   whole ? 1 : length, whole ? 0 : 1, run->mmio.data);
}

/* With interrupts off only a request ends a halt, and that gives -ECANCELED. */
static int halt(void)
{
    int result = run->if_flag ? mmiod_halt(&client) : 0;

    while (!run->if_flag && result >= 0)
        result = mmiod_next(&client, 0);
    return result;
}

static int handle_exit(void)
{
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        return port_io();
    case KVM_EXIT_MMIO:
        return mmio();
    case KVM_EXIT_HLT:
        return halt();
    case KVM_EXIT_SHUTDOWN: /* a triple fault */
        request.kind = MMIOD_REQUEST_KIND_RESET;
        return -ECANCELED;
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        return 0;
    default:
        errx(1, "KVM exits for reason %u", run->exit_reason);
    }
}

/* Asks for the vector only when the vCPU takes it: the controller has it in service then. */
static int inject(void)
{
    int vector = mmiod_inta(&client);
    struct kvm_interrupt interrupt = { .irq = (uint32_t)vector };

    if (vector < 0)
        return vector;
    return ioctl(vcpu, KVM_INTERRUPT, &interrupt) < 0 ? -errno : 0;
}

/* The guest runs until it touches a device, can take an interrupt that is pending, or a message comes. */
static int turn(void)
{
    run->immediate_exit = 0; /* before the look at the socket: a later message sets it again */
    int result = mmiod_poll(&client);

    if (result == 0 && client.interrupt && run->ready_for_interrupt_injection)
        result = inject();
    if (result < 0)
        return result;
    run->request_interrupt_window = client.interrupt != 0;
    if (ioctl(vcpu, KVM_RUN, 0) < 0)
        return errno == EINTR || errno == EAGAIN ? 0 : -errno;
    return handle_exit();
}

int main(int argc, char **argv)
{
    struct sigaction action = { .sa_handler = on_message, .sa_flags = SA_RESTART };
    size_t mebibytes = argc == 5 ? strtoul(argv[4], NULL, 10) : 128;

    if (argc < 4 || argc > 5 || mebibytes < 1 || mebibytes * MIB > MAX_RAM)
        errx(2, "usage: kvm-vmm EXIT_SOCKET VM FIRMWARE [MIB]");
    atexit(tear_down);
    build_vm();
    must("SIGIO", sigaction(SIGIO, &action, NULL) | sigprocmask(SIG_SETMASK, &action.sa_mask, NULL));
    mmiod_client_init(&client, argv[1], argv[2]);
    strcpy(client.hello.vendor, "kvm-vmm");
    client.hello.required = MMIOD_CAPABILITY_INTR;
    client.hello.optional = MMIOD_CAPABILITY_REQUESTS | MMIOD_CAPABILITY_SHARED_MEMORY |
                            MMIOD_CAPABILITY_PUBLISHED | MMIOD_CAPABILITY_GRANTS;
    client.patience_ms = 10000;
    client.event = on_event;
    client.fixtures = &fixtures;
    fixtures.change = change;
    int result = mmiod_open(&client);
    if (result == 0)
        build_memory(mebibytes * MIB, argv[3]);
    if (result == 0 && client.welcome.capabilities & MMIOD_CAPABILITY_SHARED_MEMORY)
        share();
    while (result >= 0) {
        result = turn();
        if (result == -ECANCELED && request.kind)
            result = fulfil_request();
    }
    errx(1, "%s; %.40s: %.120s", strerror(-result), client.error.name, client.error.reason);
}
