# The guest of `mmiod demo` where SeaBIOS is not installed: 16-bit code at f000:0000.
# It greets on the debug console, reads the clock, waits for three timer interrupts and
# idles.  Assembled into tiny.bin by `make generate`; a test keeps the two equal.

        .code16
        .set    CONSOLE, 0x402
        .set    TICKS, 0x500            # in RAM

start:  cli
        cld
        xor     %ax, %ax
        mov     %ax, %ss
        mov     $0x7c00, %sp
        mov     %cs, %ax
        mov     %ax, %ds
        mov     $hello, %si
        call    print

        mov     $time, %si
        call    print
        mov     $4, %al                 # RTC: hours, then minutes
        call    clock
        mov     $':', %al
        call    put
        mov     $2, %al
        call    clock
        mov     $10, %al
        call    put

        xor     %ax, %ax                # vector 8 is IRQ 0
        mov     %ax, %es
        movw    $tick, %es:0x20
        movw    %cs, %es:0x22
        movb    $0, %es:TICKS
        mov     $0x11, %al              # PIC: edge, cascade, ICW4
        out     %al, $0x20
        mov     $8, %al                 # base vector
        out     %al, $0x21
        mov     $4, %al                 # slave on IR2
        out     %al, $0x21
        mov     $1, %al                 # 8086 mode
        out     %al, $0x21
        mov     $0xfe, %al              # only IRQ 0
        out     %al, $0x21
        mov     $0x34, %al              # PIT: counter 0, both bytes, mode 2
        out     %al, $0x43
        mov     $0xa9, %al              # 11,945 ticks: 10 ms
        out     %al, $0x40
        mov     $0x2e, %al
        out     %al, $0x40
wait:   sti
        hlt
        cmpb    $3, %es:TICKS
        jb      wait

        cli
        mov     $done, %si
        call    print
stop:   sti
        hlt
        jmp     stop

tick:   push    %ax
        incb    %es:TICKS
        mov     $0x20, %al              # end of interrupt
        out     %al, $0x20
        pop     %ax
        iret

clock:  out     %al, $0x70              # prints two BCD digits
        in      $0x71, %al
        mov     %al, %ah
        shr     $4, %al
        add     $'0', %al
        call    put
        mov     %ah, %al
        and     $0xf, %al
        add     $'0', %al
put:    mov     $CONSOLE, %dx
        out     %al, %dx
        ret

print:  lodsb                           # a counted text at ds:si
        movzbw  %al, %cx
        mov     $CONSOLE, %dx
        rep outsb
        ret

hello:  .byte   time - hello - 1
        .ascii  "Hello from a guest of 297 bytes: no firmware is installed.\n"
time:   .byte   done - time - 1
        .ascii  "The clock says "
done:   .byte   end - done - 1
        .ascii  "Three timer interrupts came.\nThe tiny guest is done.\n"
end:
