# The boot sector of tests/functional/test_disk.py: through the BIOS it reads sector 1, which
# is a text, shows it on the serial port, and writes it back as sector 2.

        .code16
start:  mov     $0x7c0, %ax
        mov     %ax, %ds
        mov     %ax, %es
        xor     %ax, %ax
        mov     %ax, %ss
        mov     $0x7c00, %sp

        mov     $greeting, %si
        call    print
        mov     $0x42, %ah              # INT 13h, extended read
        call    transfer
        mov     $buffer, %si
        call    print
        incb    sector
        mov     $0x4300, %ax            # extended write
        call    transfer
        mov     $written, %si
        call    print
halt:   hlt
        jmp     halt

transfer:                               # of the BIOS's drive in DL
        mov     $packet, %si
        int     $0x13
        jc      failed
        ret
failed: mov     $failure, %si
        call    print
        jmp     halt

print:  mov     $0x3f8, %dx
        push    %dx
1:      lodsb
        test    %al, %al
        jz      2f
        mov     $0x3f8, %dx
        out     %al, %dx
        jmp     1b
2:      pop     %dx
        mov     $0x80, %dl              # the first disk
        ret

packet: .byte   16, 0
        .word   1, buffer, 0x7c0
sector: .quad   1

greeting: .asciz "boot sector runs; "
written:  .asciz "written"
failure:  .asciz "failed"

        .org    510
        .word   0xaa55
        .set    buffer, 0x200
