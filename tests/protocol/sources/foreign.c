/*
 * Structures of exit sources as others lay them out: see test_foreign.py.
 *
 *     foreign NAME          writes the structure to the standard output
 *     foreign -KIND         reads an answer from the standard input, prints its fields
 *
 * KVM, ACRN, Xen and the codes of SVM come from the public headers; what has none here is a
 * table of offsets with its citation.  The numbers below are known to the tests.
 */
#include <asm/kvm.h>
#include <asm/svm.h>
#include <inttypes.h>
#include <linux/acrn.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define __XEN__ /* for the pointers of struct buffered_iopage */
#include <xen/hvm/ioreq.h>

enum { PORT = 0x100, MMIO = 0x10000, MSR = 0x40000100, RIP = 0x1000, PAGE = 4096, POINTED = 0x2000 };

static union {
    uint8_t bytes[3 * PAGE + 64];
    struct kvm_run run;
    struct acrn_io_request acrn;
    struct ioreq ioreq;
    struct buffered_iopage ring;
} it;
static size_t size;

static void put(size_t offset, size_t width, uint64_t value)
{
    memcpy(it.bytes + offset, &value, width); /* little-endian hosts only, like the guests */
}

static uint64_t get(size_t offset, size_t width)
{
    uint64_t value = 0;
    memcpy(&value, it.bytes + offset, width);
    return value;
}

static void say(const char *name, uint64_t value)
{
    printf("%s %" PRIx64 "\n", name, value);
}

/* --- GHCB: AMD 56421 rev. 2.03, table 3 ------------------------------------------------ */

enum {
    GHCB_RAX = 0x01f8, GHCB_RCX = 0x0308, GHCB_RDX = 0x0310,
    GHCB_EXITCODE = 0x0390, GHCB_EXITINFO1 = 0x0398, GHCB_EXITINFO2 = 0x03a0, GHCB_SCRATCH = 0x03a8,
    GHCB_BITMAP = 0x03f0, GHCB_SHARED = 0x0800, GHCB_VERSION = 0x0ffa, GHCB_USAGE = 0x0ffc,
    GHCB_GPA = 0x6000,
};

/* A field, and its bit in the bitmap: one for each quadword of the save area. */
static void ghcb_set(size_t offset, uint64_t value)
{
    size_t bit = offset / 8;

    put(offset, 8, value);
    it.bytes[GHCB_BITMAP + bit / 8] |= (uint8_t)(1 << bit % 8);
}

static void ghcb(uint64_t code, uint64_t info1, uint64_t info2)
{
    size = PAGE + 8;
    ghcb_set(GHCB_EXITCODE, code);
    ghcb_set(GHCB_EXITINFO1, info1);
    ghcb_set(GHCB_EXITINFO2, info2);
    put(GHCB_VERSION, 2, 2);
    put(PAGE, 8, GHCB_GPA); /* mmiod's own: where the page is */
}

/* APM vol. 2, 15.10.2, figure 15-2. */
enum { IOIO_IN = 1 << 0, IOIO_STR = 1 << 2, IOIO_REP = 1 << 3, IOIO_8 = 1 << 4, IOIO_16 = 1 << 5, IOIO_32 = 1 << 6,
       IOIO_A64 = 1 << 9, IOIO_DS = 3 << 10 };

static void ghcb_out(void)
{
    ghcb(SVM_EXIT_IOIO, IOIO_16 | IOIO_A64 | PORT << 16, 0);
    ghcb_set(GHCB_RAX, 0xdeadbeef00001234);
}

static void ghcb_in(void)
{
    ghcb(SVM_EXIT_IOIO, IOIO_IN | IOIO_8 | IOIO_A64 | (PORT + 4) << 16, 0);
    ghcb_set(GHCB_RAX, 0xdeadbeef0000ff00);
}

static void ghcb_outs(void)
{
    ghcb(SVM_EXIT_IOIO, IOIO_STR | IOIO_REP | IOIO_16 | IOIO_A64 | IOIO_DS | PORT << 16, 3);
    ghcb_set(GHCB_SCRATCH, GHCB_GPA + GHCB_SHARED);
    memcpy(it.bytes + GHCB_SHARED, "\x01\x02\x03\x04\x05\x06", 6);
}

static void ghcb_outs_outside(void)
{
    ghcb_outs();
    ghcb_set(GHCB_SCRATCH, POINTED);
}

static void ghcb_ins(void)
{
    ghcb(SVM_EXIT_IOIO, IOIO_IN | IOIO_STR | IOIO_REP | IOIO_32 | IOIO_A64 | PORT << 16, 2);
    ghcb_set(GHCB_SCRATCH, GHCB_GPA + GHCB_SHARED + 8);
}

static void ghcb_mmio_read(void)
{
    ghcb(SVM_VMGEXIT_MMIO_READ, MMIO + 8, 4);
    ghcb_set(GHCB_SCRATCH, GHCB_GPA + GHCB_SHARED);
}

static void ghcb_mmio_write(void)
{
    ghcb(SVM_VMGEXIT_MMIO_WRITE, MMIO + 8, 8);
    ghcb_set(GHCB_SCRATCH, GHCB_GPA + GHCB_SHARED);
    put(GHCB_SHARED, 8, 0x1122334455667788);
}

static void ghcb_mmio_read_outside(void)
{
    ghcb_mmio_read();
    ghcb_set(GHCB_SCRATCH, POINTED);
}

static void ghcb_mmio_write_outside(void)
{
    ghcb_mmio_write();
    ghcb_set(GHCB_SCRATCH, POINTED);
}

static void ghcb_rdmsr(void)
{
    ghcb(SVM_EXIT_MSR, 0, 0);
    ghcb_set(GHCB_RCX, MSR);
}

static void ghcb_wrmsr(void)
{
    ghcb(SVM_EXIT_MSR, 1, 0);
    ghcb_set(GHCB_RCX, MSR);
    ghcb_set(GHCB_RAX, 0x55667788);
    ghcb_set(GHCB_RDX, 0x11223344);
}

static void ghcb_cpuid(void)
{
    ghcb(SVM_EXIT_CPUID, 0, 0);
}

static void say_ghcb(void)
{
    static const struct { const char *name; size_t offset; } fields[] = {
        {"rax", GHCB_RAX}, {"rdx", GHCB_RDX}, {"info1", GHCB_EXITINFO1}, {"info2", GHCB_EXITINFO2},
        {"shared", GHCB_SHARED}, {"shared8", GHCB_SHARED + 8},
    };
    size_t n;

    for (n = 0; n < sizeof(fields) / sizeof(fields[0]); n++) {
        size_t bit = fields[n].offset / 8;
        say(fields[n].name, get(fields[n].offset, 8));
        if (fields[n].offset < GHCB_BITMAP && it.bytes[GHCB_BITMAP + bit / 8] >> bit % 8 & 1)
            printf("valid-%s 1\n", fields[n].name);
    }
}

/* --- SVM: APM vol. 2, table B-4 (save area with SEV-ES) ------------------------------------ */

enum {
    VMSA_ES = 0x000, VMSA_CS = 0x010, VMSA_SS = 0x020, VMSA_DS = 0x030, VMSA_CPL = 0x0cb, VMSA_EFER = 0x0d0,
    VMSA_CR0 = 0x158, VMSA_RFLAGS = 0x170, VMSA_RIP = 0x178, VMSA_RAX = 0x1f8, VMSA_CR2 = 0x240,
    VMSA_RCX = 0x308, VMSA_RDX = 0x310, VMSA_RBX = 0x318, VMSA_RSI = 0x330, VMSA_RDI = 0x338, VMSA_R8 = 0x340,
    VMSA_EXITINFO1 = 0x390, VMSA_EXITINFO2 = 0x398, VMSA_EXITINTINFO = 0x3a0, VMSA_NRIP = 0x3a8,
    VMSA_EXITCODE = 0x3c0, VMSA_EVENTINJ = 0x3e0, VMSA_XCR0 = 0x3e8,
};

static void vmsa_segment(size_t offset, uint16_t selector, uint16_t attributes)
{
    put(offset, 2, selector);
    put(offset + 2, 2, attributes);
    put(offset + 4, 4, 0xffffffff);
}

/* Flat 32-bit protected mode without paging. */
static void vmsa(uint64_t code, uint64_t info1, uint64_t info2)
{
    size = PAGE;
    vmsa_segment(VMSA_ES, 0x10, 0xc93);
    vmsa_segment(VMSA_CS, 0x08, 0xc9b);
    vmsa_segment(VMSA_SS, 0x10, 0xc93);
    vmsa_segment(VMSA_DS, 0x10, 0xc93);
    put(VMSA_CR0, 8, 1);
    put(VMSA_RFLAGS, 8, 2);
    put(VMSA_RIP, 8, RIP);
    put(VMSA_RAX, 8, 0x11112222);
    put(VMSA_RDX, 8, PORT);
    put(VMSA_RBX, 8, MMIO + 0x20);
    put(VMSA_EXITCODE, 8, code);
    put(VMSA_EXITINFO1, 8, info1);
    put(VMSA_EXITINFO2, 8, info2);
}

/* VMCB 0x0d0: the number of bytes fetched, and the bytes (APM vol. 2, 15.8.4). */
static void vmcb_code(const char *bytes, size_t length)
{
    size = PAGE + 16;
    put(PAGE, 1, length);
    memcpy(it.bytes + PAGE + 1, bytes, length);
}

enum { NPF_PRESENT = 1, NPF_WRITE = 2, NPF_USER = 4 };
#define NPF_FINAL (UINT64_C(1) << 32)

static void svm_npf_read(void) /* mov ecx, [ebx] */
{
    vmsa(SVM_EXIT_NPF, NPF_FINAL | NPF_USER, MMIO + 0x20);
    vmcb_code("\x8b\x0b\xf4\xf4\xf4", 5);
}

static void svm_npf_write(void) /* mov [ebx], eax; no bytes */
{
    vmsa(SVM_EXIT_NPF, NPF_FINAL | NPF_USER | NPF_WRITE, MMIO + 0x20);
}

static void svm_npf_walk(void) /* the address is that of a page table: bit 33, not 32 */
{
    vmsa(SVM_EXIT_NPF, NPF_FINAL << 1 | NPF_USER | NPF_WRITE, 0x5000);
    vmcb_code("\x89\x03", 2);
}

static void svm_npf_lock(void) /* lock mov [ebx], eax */
{
    vmsa(SVM_EXIT_NPF, NPF_FINAL | NPF_USER | NPF_WRITE, MMIO + 0x20);
    vmcb_code("\xf0\x89\x03", 3);
}

static void svm_npf_event(void)
{
    svm_npf_read();
    put(VMSA_EXITINTINFO, 8, 0x80000b0e);
}

static void svm_in(void)
{
    vmsa(SVM_EXIT_IOIO, IOIO_IN | IOIO_16 | PORT << 16, RIP + 2);
}

static void svm_in32(void) /* the upper half of RAX goes */
{
    vmsa(SVM_EXIT_IOIO, IOIO_IN | IOIO_32 | PORT << 16, RIP + 1);
    put(VMSA_RAX, 8, 0xffffffff11112222);
}

static void svm_out(void)
{
    vmsa(SVM_EXIT_IOIO, IOIO_32 | PORT << 16, RIP + 1);
}

static void svm_outs(void) /* rep outsb, bytes to be fetched */
{
    vmsa(SVM_EXIT_IOIO, IOIO_STR | IOIO_REP | IOIO_8 | IOIO_DS | PORT << 16, RIP + 2);
    put(VMSA_RCX, 8, 3);
    put(VMSA_RSI, 8, POINTED);
}

static void svm_rdmsr(void)
{
    vmsa(SVM_EXIT_MSR, 0, 0);
    put(VMSA_RCX, 8, MSR);
    put(VMSA_NRIP, 8, RIP + 2);
}

/* Every register that an instruction reads has a value of its own; APM vol. 2, table B-4. */
static void svm_state(void)
{
    static const size_t system[] = {
        VMSA_RIP, VMSA_RFLAGS, VMSA_CR0, VMSA_CR2, 0x150 /* cr3 */, 0x148 /* cr4 */, VMSA_EFER, VMSA_XCR0,
        0x168 /* dr6 */, 0x160 /* dr7 */,
    };
    static const size_t general[] = {
        VMSA_RAX, VMSA_RCX, VMSA_RDX, VMSA_RBX, 0x1d8 /* rsp */, 0x328 /* rbp */, VMSA_RSI, VMSA_RDI,
    };
    size_t n;

    svm_npf_read();
    for (n = 0; n < 10; n++) /* es cs ss ds fs gs gdt ldt idt tr */
        vmsa_segment(16 * n, (uint16_t)(0x100 + n), (uint16_t)(0xa90 + n)), put(16 * n + 4, 4, 0x1000 + n),
            put(16 * n + 8, 8, 0x70000 + n);
    for (n = 0; n < sizeof(system) / sizeof(system[0]); n++)
        put(system[n], 8, 0x500 + n);
    for (n = 0; n < 16; n++)
        put(n < 8 ? general[n] : VMSA_R8 + 8 * (n - 8), 8, 0x600 + n);
    put(VMSA_CPL, 1, 3);
}

static void svm_hlt(void)
{
    vmsa(SVM_EXIT_HLT, 0, 0);
}

static void say_svm(void)
{
    say("rax", get(VMSA_RAX, 8));
    say("rcx", get(VMSA_RCX, 8));
    say("rdx", get(VMSA_RDX, 8));
    say("rsi", get(VMSA_RSI, 8));
    say("rip", get(VMSA_RIP, 8));
    say("event", get(VMSA_EVENTINJ, 8));
}

/* --- TDX: Intel 348552, 2.4.1 (registers of TDG.VP.VMCALL), 3 (sub-functions) --------------- */

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
enum { TDVMCALL_IO = 0x1e, TDVMCALL_RDMSR = 0x1f, TDVMCALL_WRMSR = 0x20, TDVMCALL_MMIO = 0x30,
       TDVMCALL_MAP_GPA = 0x10001 };

static void reg(int number, uint64_t value)
{
    put(8 * (size_t)number, 8, value);
}

static void tdvmcall(uint64_t function, uint64_t r12, uint64_t r13, uint64_t r14, uint64_t r15)
{
    size = 128;
    reg(RCX, 0xfc00);
    reg(R11, function);
    reg(R12, r12);
    reg(R13, r13);
    reg(R14, r14);
    reg(R15, r15);
}

static void tdx_in(void) { tdvmcall(TDVMCALL_IO, 4, 0, PORT, 0); }
static void tdx_out(void) { tdvmcall(TDVMCALL_IO, 2, 1, PORT, 0xffff1234); }
static void tdx_read(void) { tdvmcall(TDVMCALL_MMIO, 8, 0, UINT64_C(1) << 51 | (MMIO + 8), 0); }
static void tdx_write(void) { tdvmcall(TDVMCALL_MMIO, 1, 1, UINT64_C(1) << 51 | (MMIO + 8), 0x99); }
static void tdx_rdmsr(void) { tdvmcall(TDVMCALL_RDMSR, MSR, 0, 0, 0); }
static void tdx_wrmsr(void) { tdvmcall(TDVMCALL_WRMSR, MSR, 0x1122334455667788, 0, 0); }
static void tdx_map_gpa(void) { tdvmcall(TDVMCALL_MAP_GPA, 0, PAGE, 0, 0); }

static void say_tdx(void)
{
    say("r10", get(8 * R10, 8));
    say("r11", get(8 * R11, 8));
}

/* --- TD partitioning: Intel 348551, TDG.VP.ENTER and L2_ENTER_GUEST_STATE ------------------- */

enum { GUEST = 128, GUEST_RFLAGS = GUEST + 0x80, GUEST_RIP = GUEST + 0x88 };

static void td_l2(uint64_t reason, uint64_t qualification, uint64_t gla, uint64_t gpa, uint64_t length)
{
    size = GUEST + 256;
    reg(RAX, reason);
    reg(RCX, qualification);
    reg(RDX, gla);
    reg(R8, gpa);
    reg(R11, length << 32);
    put(GUEST + 8 * RAX, 8, 0x11112222);
    put(GUEST + 8 * RDX, 8, PORT);
    put(GUEST + 8 * RBX, 8, MMIO + 0x20);
    put(GUEST_RFLAGS, 8, 2);
    put(GUEST_RIP, 8, RIP);
}

/* SDM vol. 3, table 28-7: write, R/W/X not allowed, GLA valid, not of a page walk. */
static void td_l2_ept(void) { td_l2(48, 1 << 1 | 1 << 7 | 1 << 8, MMIO + 0x20, MMIO + 0x20, 0); }
static void td_l2_ept_walk(void) { td_l2(48, 1 << 0 | 1 << 7, MMIO + 0x20, 0x5000, 0); }
/* Table 28-5: size - 1, IN 3, string 4, REP 5, port 31:16. */
static void td_l2_in(void) { td_l2(30, 1 | 1 << 3 | (uint64_t)PORT << 16, 0, 0, 1); }
static void td_l2_outs(void) { td_l2(30, 0 | 1 << 4 | (uint64_t)PORT << 16, 0, 0, 1); }

static void td_l2_pending(void) /* an exit with an interrupt pending for L1 */
{
    td_l2_in();
    reg(RAX, UINT64_C(0x1102) << 32 | 30);
}

static void td_l2_event(void) /* IDT-vectoring information: #PF */
{
    td_l2_ept();
    reg(R10, 0x80000b0e);
}

static void td_l2_rdmsr(void)
{
    td_l2(31, 0, 0, 0, 2);
    put(GUEST + 8 * RCX, 8, MSR);
}

static void say_td_l2(void)
{
    say("rax", get(GUEST + 8 * RAX, 8));
    say("rdx", get(GUEST + 8 * RDX, 8));
    say("rip", get(GUEST_RIP, 8));
    say("size", size);
}

/* --- KVM ------------------------------------------------------------------------------------ */

static void kvm_io(uint8_t direction, uint8_t width, uint32_t count)
{
    size = 2 * PAGE;
    it.run.exit_reason = KVM_EXIT_IO;
    it.run.io.direction = direction;
    it.run.io.size = width;
    it.run.io.port = PORT;
    it.run.io.count = count;
    it.run.io.data_offset = PAGE;
}

static void kvm_in(void) { kvm_io(KVM_EXIT_IO_IN, 2, 3); }

static void kvm_out(void)
{
    kvm_io(KVM_EXIT_IO_OUT, 1, 3);
    memcpy(it.bytes + PAGE, "abc", 3);
}

static void kvm_mmio(uint8_t write, uint32_t length)
{
    size = PAGE;
    it.run.exit_reason = KVM_EXIT_MMIO;
    it.run.mmio.phys_addr = MMIO + 8;
    memcpy(it.run.mmio.data, "\x11\x22\x33\x44\x55\x66\x77\x88", 8);
    it.run.mmio.len = length;
    it.run.mmio.is_write = write;
}

static void kvm_mmio_read(void) { kvm_mmio(0, 4); }
static void kvm_mmio_write(void) { kvm_mmio(1, 3); }

static void kvm_msr(uint32_t reason, uint64_t data)
{
    size = PAGE;
    it.run.exit_reason = reason;
    it.run.msr.reason = KVM_MSR_EXIT_REASON_UNKNOWN;
    it.run.msr.index = MSR;
    it.run.msr.data = data;
    it.run.msr.error = 1;
}

static void kvm_rdmsr(void) { kvm_msr(KVM_EXIT_X86_RDMSR, 0); }
static void kvm_wrmsr(void) { kvm_msr(KVM_EXIT_X86_WRMSR, 0x1122334455667788); }

static struct kvm_segment kvm_flat(uint8_t type)
{
    struct kvm_segment flat = {
        .limit = 0xffffffff, .selector = 8, .type = type, .present = 1, .db = 1, .s = 1, .g = 1,
    };
    return flat;
}

static void kvm_failure(const char *code)
{
    struct kvm_sync_regs *regs = &it.run.s.regs;

    size = PAGE;
    it.run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
    it.run.emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
    it.run.emulation_failure.ndata = code ? 8 : 6;
    if (code) {
        it.run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
        it.run.emulation_failure.insn_size = 15;
        memset(it.run.emulation_failure.insn_bytes, 0xf4, 15);
        memcpy(it.run.emulation_failure.insn_bytes, code, strlen(code));
    }
    it.run.kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    regs->regs.rip = RIP;
    regs->regs.rflags = 2;
    regs->regs.rax = 0x11112222;
    regs->regs.rbx = MMIO + 0x20;
    regs->regs.r15 = 0xf15;
    regs->sregs.cr0 = 1;
    regs->sregs.cs = kvm_flat(11);
    regs->sregs.ds = regs->sregs.es = regs->sregs.ss = regs->sregs.fs = regs->sregs.gs = kvm_flat(3);
}

static void kvm_failed(void) { kvm_failure("\x8b\x0b"); }        /* mov ecx, [ebx] */
static void kvm_failed_in_shadow(void)
{
    kvm_failure("\x8b\x0b");
    it.run.s.regs.events.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
}

static void kvm_failed_lock(void) { kvm_failure("\xf0\x89\x03"); } /* #UD */
static void kvm_failed_without_bytes(void) { kvm_failure(NULL); }

static void kvm_failed_without_registers(void)
{
    kvm_failure("\x8b\x0b");
    it.run.kvm_valid_regs = 0;
}

static struct kvm_segment kvm_numbered(unsigned n)
{
    struct kvm_segment segment = {
        .base = 0x70000 + n, .limit = 0x1000 + n, .selector = (uint16_t)(0x100 + n), .type = (uint8_t)n,
        .present = 1, .dpl = 3, .l = 1, .g = n & 1, .db = n >> 1 & 1, .avl = n >> 3 & 1, /* s is 0 */
    };
    return segment;
}

/* Every register that an instruction reads has a value of its own. */
static void kvm_state(void)
{
    struct kvm_sync_regs *regs = &it.run.s.regs;

    kvm_failed();
    regs->regs = (struct kvm_regs){
        .rax = 0x600, .rcx = 0x601, .rdx = 0x602, .rbx = 0x603, .rsp = 0x604, .rbp = 0x605, .rsi = 0x606,
        .rdi = 0x607, .r8 = 0x608, .r9 = 0x609, .r10 = 0x60a, .r11 = 0x60b, .r12 = 0x60c, .r13 = 0x60d,
        .r14 = 0x60e, .r15 = 0x60f, .rip = 0x500, .rflags = 0x501,
    };
    regs->sregs.es = kvm_numbered(0);
    regs->sregs.cs = kvm_numbered(1);
    regs->sregs.ss = kvm_numbered(2);
    regs->sregs.ds = kvm_numbered(3);
    regs->sregs.fs = kvm_numbered(4);
    regs->sregs.gs = kvm_numbered(5);
    regs->sregs.ldt = kvm_numbered(7);
    regs->sregs.tr = kvm_numbered(9);
    regs->sregs.gdt.base = 0x70006;
    regs->sregs.gdt.limit = 0x1006;
    regs->sregs.idt.base = 0x70008;
    regs->sregs.idt.limit = 0x1008;
    regs->sregs.cr0 = 0x502;
    regs->sregs.cr2 = 0x503;
    regs->sregs.cr3 = 0x504;
    regs->sregs.cr4 = 0x505;
    regs->sregs.efer = 0x506;
}

/* vmovdqu ymm0, [ebx], with OSFXSR and OSXSAVE set: KVM emulates no VEX. */
static void kvm_failed_vector(void)
{
    kvm_failure("\xc5\xfe\x6f\x03");
    it.run.s.regs.sregs.cr4 = 0x40600;
}

static void kvm_shutdown(void)
{
    size = PAGE;
    it.run.exit_reason = KVM_EXIT_SHUTDOWN;
}

static void say_kvm(void)
{
    const struct kvm_sync_regs *regs = &it.run.s.regs;

    say("io", get(PAGE, 8));
    say("mmio", get(offsetof(struct kvm_run, mmio.data), 8));
    say("msr", it.run.msr.data);
    say("error", it.run.msr.error);
    say("rcx", regs->regs.rcx);
    say("r15", regs->regs.r15);
    say("rip", regs->regs.rip);
    say("dirty", it.run.kvm_dirty_regs);
    say("injected", regs->events.exception.injected);
    say("nr", regs->events.exception.nr);
    say("has_error_code", regs->events.exception.has_error_code);
    say("error_code", regs->events.exception.error_code);
    say("shadow", regs->events.interrupt.shadow);
    say("shadow_valid", !!(regs->events.flags & KVM_VCPUEVENT_VALID_SHADOW));
    say("cr2", regs->sregs.cr2);
}

/* --- Hyper-V: TLFS 6.0b, 11.9; hvhdk.h: hv_intercept_message_header and what follows it ------ */

enum {
    HV_TYPE = 0, HV_SIZE = 4, HV_PAYLOAD = 16,
    HV_LENGTH = HV_PAYLOAD + 4, HV_ACCESS = HV_PAYLOAD + 5, HV_STATE = HV_PAYLOAD + 6,
    HV_RIP = HV_PAYLOAD + 24, HV_RFLAGS = HV_PAYLOAD + 32,
    HV_MEMORY_COUNT = HV_PAYLOAD + 44, HV_MEMORY_INFO = HV_PAYLOAD + 45, HV_MEMORY_GVA = HV_PAYLOAD + 48,
    HV_MEMORY_GPA = HV_PAYLOAD + 56, HV_MEMORY_CODE = HV_PAYLOAD + 64,
    HV_PORT = HV_PAYLOAD + 40, HV_PORT_INFO = HV_PAYLOAD + 42, HV_PORT_COUNT = HV_PAYLOAD + 43,
    HV_PORT_RAX = HV_PAYLOAD + 48, HV_PORT_CODE = HV_PAYLOAD + 56,
    HV_MSR = HV_PAYLOAD + 40, HV_MSR_RDX = HV_PAYLOAD + 48, HV_MSR_RAX = HV_PAYLOAD + 56,
};

static void hyperv(uint32_t type, uint8_t access, uint8_t length)
{
    size = 256;
    put(HV_TYPE, 4, type);
    put(HV_ACCESS, 1, access);
    put(HV_LENGTH, 1, 0xf0 | length); /* CR8 is 15 */
    put(HV_RIP, 8, RIP);
    put(HV_RFLAGS, 8, 2);
}

static void hyperv_memory(void) /* mov [ebx], eax */
{
    hyperv(0x80000001, 1, 0);
    put(HV_MEMORY_COUNT, 1, 16);
    put(HV_MEMORY_INFO, 1, 1);
    put(HV_MEMORY_GVA, 8, MMIO + 0x20);
    put(HV_MEMORY_GPA, 8, MMIO + 0x20);
    memcpy(it.bytes + HV_MEMORY_CODE, "\x89\x03\xf4\xf4\xf4\xf4\xf4\xf4\xf4\xf4\xf4\xf4\xf4\xf4\xf4\xf4", 16);
}

static void hyperv_event(void)
{
    hyperv_memory();
    put(HV_STATE, 2, 1 << 5);
}

static void hyperv_port(uint8_t access, uint8_t info)
{
    hyperv(0x80010000, access, 1);
    put(HV_PORT, 2, PORT);
    put(HV_PORT_INFO, 1, info);
    put(HV_PORT_RAX, 8, 0x11112222);
}

static void hyperv_in(void) { hyperv_port(0, 2); }
static void hyperv_out(void) { hyperv_port(1, 4); }

static void hyperv_outs(void) /* outsb */
{
    hyperv_port(1, 1 | 1 << 3);
    put(HV_PORT_COUNT, 1, 1);
    put(HV_PORT_CODE, 1, 0x6e);
}

static void hyperv_rdmsr(void)
{
    hyperv(0x80010001, 0, 2);
    put(HV_MSR, 4, MSR);
}

static void hyperv_wrmsr(void)
{
    hyperv(0x80010001, 1, 2);
    put(HV_MSR, 4, MSR);
    put(HV_MSR_RDX, 8, 0x11223344);
    put(HV_MSR_RAX, 8, 0x55667788);
}

static void hyperv_cpuid(void) { hyperv(0x80010002, 2, 2); }

static void say_hyperv(void)
{
    say("rip", get(HV_RIP, 8));
    say("rax", get(HV_PORT_RAX, 8));
    say("msr-rax", get(HV_MSR_RAX, 8));
    say("msr-rdx", get(HV_MSR_RDX, 8));
}

/* --- Xen ------------------------------------------------------------------------------------ */

static void xen(uint8_t type, uint8_t dir, uint64_t addr, uint32_t width, uint32_t count)
{
    size = sizeof(it.ioreq);
    it.ioreq.addr = addr;
    it.ioreq.data = 0x1122334455667788;
    it.ioreq.count = count;
    it.ioreq.size = width;
    it.ioreq.state = STATE_IOREQ_INPROCESS;
    it.ioreq.dir = dir;
    it.ioreq.type = type;
}

static void xen_pointed(int down)
{
    it.ioreq.data_is_ptr = 1;
    it.ioreq.data = POINTED;
    it.ioreq.df = down ? 1 : 0;
}

static void xen_in(void) { xen(IOREQ_TYPE_PIO, IOREQ_READ, PORT, 2, 1); }
static void xen_out(void) { xen(IOREQ_TYPE_PIO, IOREQ_WRITE, PORT, 4, 1); }
static void xen_read(void) { xen(IOREQ_TYPE_COPY, IOREQ_READ, MMIO + 8, 8, 1); }
static void xen_write(void) { xen(IOREQ_TYPE_COPY, IOREQ_WRITE, MMIO + 8, 1, 1); }

static void xen_outs(void)
{
    xen(IOREQ_TYPE_PIO, IOREQ_WRITE, PORT, 2, 3);
    xen_pointed(0);
}

static void xen_ins_down(void)
{
    xen(IOREQ_TYPE_PIO, IOREQ_READ, PORT, 2, 3);
    xen_pointed(1);
}

static void xen_movs_down(void)
{
    xen(IOREQ_TYPE_COPY, IOREQ_WRITE, MMIO + 8, 2, 3);
    xen_pointed(1);
}

static void xen_config(void) /* 00:03.0, register 4 */
{
    xen(IOREQ_TYPE_PCI_CONFIG, IOREQ_READ, UINT64_C(3) << 35 | 4, 2, 1);
}

static void xen_invalidate(void) { xen(IOREQ_TYPE_INVALIDATE, IOREQ_WRITE, ~UINT64_C(0), 4, 1); }

static void xen_slot(unsigned number, uint8_t type, uint8_t log, uint32_t addr, uint32_t data)
{
    buf_ioreq_t *slot = &it.ring.buf_ioreq[number % IOREQ_BUFFER_SLOT_NUM];

    slot->type = type;
    slot->dir = IOREQ_WRITE;
    slot->size = log & 3;
    slot->addr = addr & 0xfffff;
    slot->data = data;
}

static void xen_ring(void)
{
    unsigned at = IOREQ_BUFFER_SLOT_NUM * 3 - 1; /* the last slot; the next one is the first */

    size = PAGE;
    it.ring.ptrs.read_pointer = at;
    xen_slot(at, IOREQ_TYPE_PIO, 0, PORT, 0xffffff41); /* one byte of it counts */
    xen_slot(at + 1, IOREQ_TYPE_COPY, 3, MMIO + 8, 0x55667788);
    xen_slot(at + 2, IOREQ_TYPE_COPY, 3, 0, 0x11223344);
    xen_slot(at + 3, IOREQ_TYPE_COPY, 1, MMIO + 16, 0x1234);
    it.ring.ptrs.write_pointer = at + 4;
}

static void xen_ring_full(void)
{
    unsigned n;

    size = PAGE;
    for (n = 0; n < IOREQ_BUFFER_SLOT_NUM; n++)
        xen_slot(n, IOREQ_TYPE_COPY, 2, MMIO + 4 * (n % 16), n);
    it.ring.ptrs.write_pointer = IOREQ_BUFFER_SLOT_NUM;
}

static void xen_config_of_another_segment(void)
{
    xen(IOREQ_TYPE_PCI_CONFIG, IOREQ_READ, UINT64_C(1) << 48 | UINT64_C(3) << 35 | 4, 2, 1);
}

static void say_xen(void)
{
    if (size == PAGE) {
        say("read_pointer", it.ring.ptrs.read_pointer);
        say("write_pointer", it.ring.ptrs.write_pointer);
        return;
    }
    say("data", it.ioreq.data);
    say("state", it.ioreq.state);
    say("dir", it.ioreq.dir);
}

/* --- ACRN ----------------------------------------------------------------------------------- */

static void acrn(uint32_t type)
{
    size = sizeof(it.acrn);
    it.acrn.type = type;
    it.acrn.processed = ACRN_IOREQ_STATE_PROCESSING;
}

static void acrn_port(uint32_t direction)
{
    acrn(ACRN_IOREQ_TYPE_PORTIO);
    it.acrn.reqs.pio_request.direction = direction;
    it.acrn.reqs.pio_request.address = PORT;
    it.acrn.reqs.pio_request.size = 2;
    it.acrn.reqs.pio_request.value = 0xffff1234;
}

static void acrn_mmio(uint32_t direction)
{
    acrn(ACRN_IOREQ_TYPE_MMIO);
    it.acrn.reqs.mmio_request.direction = direction;
    it.acrn.reqs.mmio_request.address = MMIO + 8;
    it.acrn.reqs.mmio_request.size = 8;
    it.acrn.reqs.mmio_request.value = 0x1122334455667788;
}

static void acrn_config(void)
{
    acrn(ACRN_IOREQ_TYPE_PCICFG);
    it.acrn.reqs.pci_request.direction = ACRN_IOREQ_DIR_READ;
    it.acrn.reqs.pci_request.size = 4;
    it.acrn.reqs.pci_request.dev = 3;
    it.acrn.reqs.pci_request.reg = 4;
}

static void acrn_config_write(void)
{
    acrn_config();
    it.acrn.reqs.pci_request.direction = ACRN_IOREQ_DIR_WRITE;
    it.acrn.reqs.pci_request.size = 2;
    it.acrn.reqs.pci_request.value = 0xffff1234;
}

static void acrn_in(void) { acrn_port(ACRN_IOREQ_DIR_READ); }
static void acrn_out(void) { acrn_port(ACRN_IOREQ_DIR_WRITE); }
static void acrn_read(void) { acrn_mmio(ACRN_IOREQ_DIR_READ); }
static void acrn_read_byte(void)
{
    acrn_mmio(ACRN_IOREQ_DIR_READ);
    it.acrn.reqs.mmio_request.size = 1;
}

static void acrn_write(void) { acrn_mmio(ACRN_IOREQ_DIR_WRITE); }

static void say_acrn(void)
{
    say("pio", it.acrn.reqs.pio_request.value);
    say("mmio", it.acrn.reqs.mmio_request.value);
    say("pci", it.acrn.reqs.pci_request.value);
    say("processed", it.acrn.processed);
}

/* --- bhyve: FreeBSD 14, sys/amd64/include/vmm.h: struct vm_exit, struct vie --------------------- */

enum {
    BHYVE_CODE = 0, BHYVE_LENGTH = 4, BHYVE_RIP = 8, BHYVE_U = 16,
    BHYVE_BITS = BHYVE_U, BHYVE_PORT = BHYVE_U + 2, BHYVE_EAX = BHYVE_U + 4, BHYVE_MSR_CODE = BHYVE_U,
    BHYVE_WVAL = BHYVE_U + 8, BHYVE_GPA = BHYVE_U, BHYVE_GLA = BHYVE_U + 8, BHYVE_VIE = BHYVE_U + 56,
    BHYVE_VALID = BHYVE_VIE + 15,
};

static void bhyve(uint32_t code)
{
    size = 16 + 120;
    put(BHYVE_CODE, 4, code);
    put(BHYVE_LENGTH, 4, 1);
    put(BHYVE_RIP, 8, RIP);
}

static void bhyve_inout(uint16_t bits)
{
    bhyve(0);
    put(BHYVE_BITS, 2, bits);
    put(BHYVE_PORT, 2, PORT);
    put(BHYVE_EAX, 4, 0x11112222);
}

static void bhyve_in(void) { bhyve_inout(2 | 1 << 3); }
static void bhyve_out(void) { bhyve_inout(1); }

static void bhyve_rdmsr(void)
{
    bhyve(3);
    put(BHYVE_MSR_CODE, 4, MSR);
}

static void bhyve_wrmsr(void)
{
    bhyve(4);
    put(BHYVE_MSR_CODE, 4, MSR);
    put(BHYVE_WVAL, 8, 0x1122334455667788);
}

static void bhyve_emulate(void) /* mov [ebx], eax */
{
    bhyve(9);
    put(BHYVE_GPA, 8, MMIO + 0x20);
    put(BHYVE_GLA, 8, MMIO + 0x20);
    memcpy(it.bytes + BHYVE_VIE, "\x89\x03", 2);
    put(BHYVE_VALID, 1, 2);
}

static void bhyve_string(void) { bhyve(15); }
static void bhyve_halt(void) { bhyve(5); }

static void say_bhyve(void)
{
    say("eax", get(BHYVE_EAX, 4));
    say("wval", get(BHYVE_WVAL, 8));
}

/* -------------------------------------------------------------------------------------------- */

#define NAME(function) {#function, function}

static const struct { const char *name; void (*call)(void); } known[] = {
    NAME(ghcb_out), NAME(ghcb_in), NAME(ghcb_outs), NAME(ghcb_outs_outside), NAME(ghcb_ins), NAME(ghcb_mmio_read),
    NAME(ghcb_mmio_write), NAME(ghcb_mmio_read_outside), NAME(ghcb_mmio_write_outside), NAME(ghcb_rdmsr),
    NAME(ghcb_wrmsr), NAME(ghcb_cpuid),
    NAME(svm_npf_read), NAME(svm_npf_write), NAME(svm_npf_walk), NAME(svm_npf_lock), NAME(svm_npf_event), NAME(svm_in), NAME(svm_in32),
    NAME(svm_out), NAME(svm_outs), NAME(svm_rdmsr), NAME(svm_state), NAME(svm_hlt),
    NAME(tdx_in), NAME(tdx_out), NAME(tdx_read), NAME(tdx_write), NAME(tdx_rdmsr), NAME(tdx_wrmsr),
    NAME(tdx_map_gpa),
    NAME(td_l2_ept), NAME(td_l2_ept_walk), NAME(td_l2_in), NAME(td_l2_outs), NAME(td_l2_rdmsr), NAME(td_l2_pending), NAME(td_l2_event),
    NAME(kvm_in), NAME(kvm_out), NAME(kvm_mmio_read), NAME(kvm_mmio_write), NAME(kvm_rdmsr), NAME(kvm_wrmsr),
    NAME(kvm_failed), NAME(kvm_failed_lock), NAME(kvm_failed_in_shadow),
    NAME(kvm_failed_without_bytes),
    NAME(kvm_failed_without_registers), NAME(kvm_failed_vector), NAME(kvm_state), NAME(kvm_shutdown),
    NAME(hyperv_memory), NAME(hyperv_event), NAME(hyperv_in), NAME(hyperv_out), NAME(hyperv_outs),
    NAME(hyperv_rdmsr), NAME(hyperv_wrmsr), NAME(hyperv_cpuid),
    NAME(xen_in), NAME(xen_out), NAME(xen_read), NAME(xen_write), NAME(xen_outs), NAME(xen_ins_down),
    NAME(xen_movs_down), NAME(xen_config), NAME(xen_invalidate), NAME(xen_ring), NAME(xen_ring_full), NAME(xen_config_of_another_segment),
    NAME(acrn_in), NAME(acrn_out), NAME(acrn_read), NAME(acrn_read_byte), NAME(acrn_write), NAME(acrn_config), NAME(acrn_config_write),
    NAME(bhyve_in), NAME(bhyve_out), NAME(bhyve_rdmsr), NAME(bhyve_wrmsr), NAME(bhyve_emulate),
    NAME(bhyve_string), NAME(bhyve_halt),
    {"-ghcb", say_ghcb}, {"-svm", say_svm}, {"-tdvmcall", say_tdx}, {"-td_l2", say_td_l2}, {"-kvm", say_kvm},
    {"-hyperv", say_hyperv}, {"-xen", say_xen}, {"-acrn", say_acrn}, {"-bhyve", say_bhyve},
};

int main(int argc, char **argv)
{
    const char *wanted = argc > 1 ? argv[1] : "";
    size_t n;

    if (wanted[0] == '-')
        size = fread(it.bytes, 1, sizeof(it.bytes), stdin);
    for (n = 0; n < sizeof(known) / sizeof(known[0]); n++) {
        if (strcmp(known[n].name, wanted))
            continue;
        known[n].call();
        return wanted[0] == '-' || fwrite(it.bytes, 1, size, stdout) == size ? 0 : 1;
    }
    fprintf(stderr, "nothing is called %s\n", wanted);
    return 1;
}
