# A flat 64 KiB guest that watches devices move: PIT, port 61h, RTC, PM timer, UART.
# Every value that it reads is in the trace of its accesses; it keeps none.  It ends by
# soft off.  Polls end after a bounded number of reads, so that a device that never
# moves shows as a long run of equal reads.  Sections in capitals are where both sides
# are known to differ (tests/qemu/differences.py).

        .code16
        .set    POLLS, 500

        .macro  put     port, value
        mov     $\port, %dx
        mov     $\value, %al
        out     %al, %dx
        .endm

        .macro  section letter                  # the rest is told apart by writes of the debug console
        put     0x402, \letter
        .endm

        .macro  get     port
        mov     $\port, %dx
        in      %dx, %al
        .endm

        .macro  cell    index, value            # RTC: write a cell
        put     0x70, \index
        put     0x71, \value
        .endm

        .macro  pics                            # ICW1-4, all masked: no earlier edge is left
        put     0x20, 0x11
        put     0x21, 0x08
        put     0x21, 0x04
        put     0x21, 0x01
        put     0xa0, 0x11
        put     0xa1, 0x70
        put     0xa1, 0x02
        put     0xa1, 0x01
        put     0x21, 0xff
        put     0xa1, 0xff
        .endm

        .macro  poll    port, mask, level       # read until the masked bits are `level`
        mov     $POLLS, %cx
        mov     $\port, %dx
1:      in      %dx, %al
        and     $\mask, %al
        cmp     $\level, %al
        loopne  1b
        .endm

        .macro  counter number                  # latch and read twice
        put     0x43, \number << 6
        get     0x40 + \number
        get     0x40 + \number
        .endm

        .macro  configure register, value
        mov     $0xcf8, %dx
        mov     $0x80000b00 + \register, %eax
        out     %eax, %dx
        mov     $0xcfc, %dx
        mov     $\value, %eax
        out     %eax, %dx
        .endm

start:  cli
        xor     %ax, %ax
        mov     %ax, %ss
        mov     $0x7c00, %sp
        mov     %ax, %ds
        movw    $tick, 0x20                     # vector 8 is IRQ 0
        movw    %cs, 0x22
        movw    $clock, 0x1c0                   # vector 70h is IRQ 8
        movw    %cs, 0x1c2
        pics

# --- PIT: counters 0 and 2 in modes that count, their OUT, the gate

        section 'c'
        put     0x43, 0x34                      # 0: mode 2
        put     0x40, 0x00
        put     0x40, 0x10
        .rept   6
        counter 0
        .endr
        put     0x43, 0x36                      # 0: mode 3, even
        put     0x40, 0x00
        put     0x40, 0x08
        .rept   6
        counter 0
        .endr
        put     0x61, 0x01                      # gate 2 up
        put     0x43, 0xb0                      # 2: mode 0
        put     0x42, 0x00
        put     0x42, 0x04
        counter 2
        counter 2
        poll    0x61, 0x20, 0x20                # OUT2 after 1024 CLKs
        put     0x43, 0xb6                      # 2: mode 3
        put     0x42, 0x00
        put     0x42, 0x02
        poll    0x61, 0x20, 0x00                # half a period
        poll    0x61, 0x20, 0x20
        poll    0x61, 0x20, 0x00
        put     0x43, 0xba                      # 2: mode 5, triggered by the gate
        put     0x42, 0x00
        put     0x42, 0x02
        put     0x61, 0x00
        put     0x61, 0x01
        counter 2
        counter 2

# --- PIT and PIC: ticks, by halting

        section 't'
        put     0x43, 0x34                      # 0: mode 2, 1024 CLKs
        put     0x40, 0x00
        put     0x40, 0x04
        put     0x21, 0xfe
        mov     $8, %si
wait:   sti
        hlt
        cli
        counter 0
        dec     %si
        jnz     wait
        put     0x21, 0xff

# --- UART: the character timeout in loopback

        section 'u'
        put     0x3fb, 0x83
        put     0x3f8, 0x01
        put     0x3f9, 0x00
        put     0x3fb, 0x03
        put     0x3fc, 0x10
        put     0x3fa, 0xc7
        put     0x3f9, 0x01
        put     0x3f8, 0x55
        put     0x3f8, 0xaa
        poll    0x3fa, 0x0f, 0x0c
        get     0x3fd
        get     0x3f8
        get     0x3fa
        get     0x3f8
        get     0x3fa
        get     0x3fd

# --- PM timer

        section 'p'
        configure 0x40, 0xb001
        configure 0x80, 0x00000001
        mov     $0xb008, %dx
        .rept   8
        in      %dx, %eax
        .endr

# --- RTC: periodic flag, its interrupt, seconds

        section 's'                             # the first period: its phase is the divider's
        cell    0x0a, 0x26
        cell    0x0b, 0x42                      # PIE
        put     0x70, 0x0c
        get     0x71
        poll    0x71, 0x40, 0x40                # PF at 1024 Hz
        section 'r'
        put     0x70, 0x0c
        .rept   3
        poll    0x71, 0x40, 0x40
        .endr
        section 's'
        cell    0x0a, 0x28
        cell    0x0b, 0x42                      # 256 Hz
        put     0x70, 0x0c
        get     0x71
        pics
        section 'n'
        put     0x21, 0xfb
        put     0xa1, 0xfe
        mov     $300, %si                       # more than a second
nap:    sti
        hlt
        cli
        dec     %si
        jnz     nap
        put     0xa1, 0xff
        put     0x70, 0x00
        get     0x71
        put     0x70, 0x02
        get     0x71

# --- where QEMU is known to differ: BCD, a gate that is low, PF without PIE

        section 'B'
        put     0x43, 0x35                      # 0: mode 2, BCD
        put     0x40, 0x00
        put     0x40, 0x10
        counter 0
        section 'G'
        put     0x61, 0x00
        put     0x43, 0xb0                      # 2: mode 0
        put     0x42, 0x00
        put     0x42, 0x04
        counter 2
        section 'P'
        cell    0x0a, 0x26
        cell    0x0b, 0x02
        put     0x70, 0x0c
        get     0x71
        poll    0x71, 0x40, 0x40
        section 'e'

        mov     $0xb004, %dx                    # soft off
        mov     $0x2000, %ax
        out     %ax, %dx
stop:   hlt
        jmp     stop

tick:   put     0x20, 0x20
        iret

clock:  put     0x70, 0x0c
        get     0x71
        put     0xa0, 0x20
        put     0x20, 0x20
        iret

        .org    0xfff0
        ljmp    $0xf000, $start
        .org    0x10000, 0
