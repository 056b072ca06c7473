# The firmware of tests/functional/test_c_ends.py: reads the UART's scratch register 32 times,
# then writes to the PIIX4's PMCNTRL that the machine be switched off.

        .code16
start:  mov     $32, %cx
1:      mov     %cl, %al
        mov     $0x3ff, %dx
        out     %al, %dx
        in      %dx, %al
        cmp     %cl, %al
        jne     halt                    # somebody answered another access
        loop    1b

        mov     $0x80000b40, %eax       # 00:01.3, PMBA
        mov     $0x600, %ebx
        call    configure
        mov     $0x80000b80, %eax       # PMREGMISC: decode it
        mov     $1, %ebx
        call    configure
        mov     $0x604, %dx             # PMCNTRL: SUS_EN with SUS_TYP 0
        mov     $0x2000, %ax
        out     %ax, %dx
halt:   cli
        hlt
        jmp     halt

configure:
        mov     $0xcf8, %dx
        out     %eax, %dx
        mov     $0xfc, %dl
        mov     %ebx, %eax
        out     %eax, %dx
        ret

        .org    0xfff0
        ljmp    $0xf000, $start
        .org    0x10000
