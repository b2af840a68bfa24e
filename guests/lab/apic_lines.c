// SPDX-License-Identifier: Apache-2.0
// Lines: the 8259 pair through LINT0, the I/O APIC's edges and levels. The PIT (IRQ 0, pin 2), the RTC (IRQ 8) and the
// UART's transmitter (IRQ 4, level) are the sources.
#include "apic.h"

#define PIC_BASE 0x20 // vectors: below those that get an EOI at the local APIC

static void pic_init(void)
{
    out8(0x20, 0x11);
    out8(0x21, PIC_BASE);
    out8(0x21, 4);
    out8(0x21, 1);
    out8(0xa0, 0x11);
    out8(0xa1, PIC_BASE + 8);
    out8(0xa1, 2);
    out8(0xa1, 1);
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
}

static void pit_shot(u32 count)
{
    out8(0x43, 0x30); // channel 0, mode 0
    out8(0x40, (u8)count);
    out8(0x40, (u8)(count >> 8));
}

// Until the shot has gone off: OUT, which is the line, says so itself (8254, read-back), however late the host is.
static void pit_gone_off(void)
{
    u8 status = 0;
    for (u32 i = 0; i < 20000000 && !(status & 0x80); i++) {
        out8(0x43, 0xe2); // status of channel 0
        status = in8(0x40);
    }
    lab_check(status & 0x80, "the PIT's shot goes off: status %x", status);
    pass_time(100); // whatever lies between the line and the processor
}

static u8 pic_register(u16 port, u8 which)
{
    out8(port, which); // OCW3: 0Ah request, 0Bh service
    return in8(port);
}

static u8 rtc_read(u8 reg)
{
    out8(0x70, reg);
    return in8(0x71);
}
static void rtc_write(u8 reg, u8 v)
{
    out8(0x70, reg);
    out8(0x71, v);
}

static volatile u8 service[2];

static void pic_inside(u32 vector)
{
    service[0] = pic_register(0x20, 0x0b);
    service[1] = pic_register(0xa0, 0x0b);
    if (vector >= PIC_BASE + 8) {
        (void)rtc_read(0xc);
        out8(0xa0, 0x20);
    }
    out8(0x20, 0x20);
}

void apic_pic(void)
{
    pic_init();
    apic_write(APIC_LVT_LINT0, 0x700); // ExtINT
    apic_inside = pic_inside;
    out8(0x21, 0xfe);
    pit_shot(300);
    let_in_until(1);
    apic_took("PIT through the 8259", 1, PIC_BASE);
    lab_equal("in service there", service[0], 1);
    lab_equal("nothing in service after EOI", pic_register(0x20, 0x0b), 0);
    lab_check(!apic_bit(APIC_ISR, PIC_BASE), "the local APIC has no part in it");
    // Masked at the 8259: a request that waits.
    takens = 0;
    out8(0x21, 0xff);
    pit_shot(100);
    pit_gone_off();
    lab_check(pic_register(0x20, 0x0a) & 1, "request while masked");
    let_in();
    apic_took("masked at the 8259", 0, PIC_BASE);
    out8(0x21, 0xfe);
    let_in_until(1);
    apic_took("unmasked at the 8259", 1, PIC_BASE);
    // Masked at LINT0, and the APIC's priority does not matter to ExtINT.
    takens = 0;
    apic_write(APIC_LVT_LINT0, LVT_MASKED | 0x700);
    pit_shot(100);
    pit_gone_off();
    let_in();
    apic_took("masked at LINT0", 0, PIC_BASE);
    apic_write(APIC_TPR, 0xff);
    apic_write(APIC_LVT_LINT0, 0x700);
    let_in_until(1);
    apic_took("ExtINT with TPR FFh", 1, PIC_BASE);
    apic_write(APIC_TPR, 0);
    // The second 8259, through the RTC's periodic interrupt.
    takens = 0;
    out8(0x21, 0xfb);
    out8(0xa1, 0xfe);
    u8 a = rtc_read(0xa), b = rtc_read(0xb);
    (void)rtc_read(0xc);
    rtc_write(0xa, (u8)((a & 0x70) | 6)); // 1024 Hz
    rtc_write(0xb, (u8)(b | 0x40));
    let_in_until(1);
    rtc_write(0xb, b);
    lab_check(takens >= 1 && taken[0] == PIC_BASE + 8, "RTC through both 8259s: %u, %x", takens,
              taken[0]);
    lab_equal("in service, first", service[0], 4);
    lab_equal("in service, second", service[1], 1);
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    (void)rtc_read(0xc);
    apic_write(APIC_LVT_LINT0, LVT_MASKED);
}

// --- the I/O APIC ------------------------------------------------------------------------------------------

static u32 io_read(u32 reg)
{
    *(volatile u32 *)0xfec00000ul = reg;
    return *(volatile u32 *)0xfec00010ul;
}
static void io_write(u32 reg, u32 v)
{
    *(volatile u32 *)0xfec00000ul = reg;
    *(volatile u32 *)0xfec00010ul = v;
}
static void entry(u32 pin, u32 low)
{
    io_write(0x11 + pin * 2, apic_read(APIC_ID) & 0xff000000);
    io_write(0x10 + pin * 2, low);
}
#define IO_MASKED 0x10000u
#define IO_LEVEL 0x8000u
#define IO_REMOTE_IRR 0x4000u

static u32 remote_seen;

static void level_inside(u32 vector)
{
    (void)vector;
    remote_seen |= io_read(0x10 + 4 * 2) & IO_REMOTE_IRR ? 1u << takens : 0;
    lab_check(apic_bit(APIC_TMR, vector), "level: TMR");
    if (takens == 2)
        out8(0x3f9, 0); // the source falls silent
}

void apic_io(void)
{
    u32 version = io_read(1), pins = (version >> 16 & 0xff) + 1;
    lab_check(pins >= 16 && pins <= 240, "version: %x", version);
    for (u32 pin = 0; pin < pins; pin++) {
        io_write(0x10 + pin * 2, 0xffffffff & ~(IO_REMOTE_IRR | 0x1000u));
        lab_equal("entry: what can be written",
                  io_read(0x10 + pin * 2) & ~(IO_REMOTE_IRR | 0x1000u), 0x1afff);
        io_write(0x10 + pin * 2, IO_MASKED);
        lab_equal("entry: masked", io_read(0x10 + pin * 2), IO_MASKED);
    }
    // Edge: one for each; one that comes while masked is lost.
    entry(2, 0x52);
    pit_shot(200);
    let_in_until(1);
    apic_took("edge", 1, 0x52);
    takens = 0;
    pit_shot(200);
    let_in_until(1);
    apic_took("edge again", 1, 0x52);
    takens = 0;
    entry(2, IO_MASKED | 0x52);
    pit_shot(100);
    pit_gone_off();
    entry(2, 0x52);
    let_in();
    apic_took("edge while masked", 0, 0x52);
    // Below the processor's priority it waits.
    apic_write(APIC_TPR, 0x50);
    pit_shot(100);
    pit_gone_off();
    lab_check(apic_bit(APIC_IRR, 0x52), "edge below TPR: request");
    let_in();
    apic_took("edge below TPR", 0, 0x52);
    apic_write(APIC_TPR, 0);
    let_in_until(1);
    apic_took("edge above TPR", 1, 0x52);
    // Another destination: nobody there.
    takens = 0;
    entry(2, IO_MASKED);
    io_write(0x15, 0x0d000000);
    io_write(0x14, 0x52);
    pit_shot(100);
    pit_gone_off();
    let_in();
    apic_took("edge to nobody", 0, 0x52);
    // NMI.
    entry(2, 0x400);
    pit_shot(100);
    pit_gone_off();
    let_in_until(1);
    apic_took("NMI", 1, VEC_NMI);
    entry(2, IO_MASKED);
    // Level: again after EOI for as long as the line is up, and remote IRR in between.
    apic_forget();
    remote_seen = 0;
    apic_inside = level_inside;
    out8(0x3fc, 0x0b); // OUT2 opens the UART's line
    entry(4, IO_LEVEL | 0x64);
    out8(0x3f9, 2); // transmitter empty
    let_in_until(2);
    pass_time(20);
    let_in();
    apic_took("level", 2, 0x64);
    lab_equal("remote IRR in service", remote_seen, 6);
    lab_check(!(io_read(0x18) & IO_REMOTE_IRR), "remote IRR after EOI");
    // Masked and unmasked with the line up: a level is not lost.
    apic_forget();
    entry(4, IO_MASKED | IO_LEVEL | 0x64);
    out8(0x3f9, 2);
    pass_time(20);
    let_in();
    apic_took("level while masked", 0, 0x64);
    apic_inside = level_inside;
    takens = 1; // the source falls silent at the first
    entry(4, IO_LEVEL | 0x64);
    let_in_until(2);
    let_in();
    lab_equal("level unmasked", takens, 2);
    out8(0x3f9, 0);
    entry(4, IO_MASKED);
}
