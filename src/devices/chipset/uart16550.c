// SPDX-License-Identifier: Apache-2.0
// The 16550A's registers, FIFO and interrupts. Section numbers are those of the PC16550D data
// sheet.
#include "devices/chipset/uart16550.h"

enum {
    REG_DATA = 0, // RBR, THR; DLL with DLAB
    REG_IER = 1,  // DLM with DLAB
    REG_IIR = 2,  // read; FCR on write
    REG_LCR = 3,
    REG_MCR = 4,
    REG_LSR = 5,
    REG_MSR = 6,
    REG_SCR = 7,
};

#define IER_RDA 0x01
#define IER_THRE 0x02
#define IER_RLS 0x04
#define IER_MODEM 0x08

#define IIR_NONE 0x01
#define IIR_MODEM 0x00
#define IIR_THRE 0x02
#define IIR_RDA 0x04
#define IIR_RLS 0x06
#define IIR_TIMEOUT 0x0C
#define IIR_FIFO 0xC0

#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04
#define FCR_STORED 0xC9 // trigger, DMA mode, enable

#define LCR_WORD 0x03
#define LCR_STOP 0x04
#define LCR_PARITY 0x08
#define LCR_BREAK 0x40
#define LCR_DLAB 0x80

#define MCR_DTR 0x01
#define MCR_RTS 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10

#define LSR_DR 0x01
#define LSR_OE 0x02
#define LSR_PE 0x04
#define LSR_FE 0x08
#define LSR_BI 0x10
#define LSR_THRE 0x20
#define LSR_TEMT 0x40
#define LSR_FIFO_ERROR 0x80
#define RX_ERRORS (LSR_PE | LSR_FE | LSR_BI)

#define MSR_DELTA 0x0F
#define MSR_TERI 0x04
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80
#define MSR_LINES 0xF0

#define BAUD_CLOCK 115200 // 1.8432 MHz / 16

static bool fifo_enabled(const struct uart16550 *uart)
{
    return uart->fcr & FCR_ENABLE;
}

static unsigned rx_capacity(const struct uart16550 *uart)
{
    return fifo_enabled(uart) ? UART16550_FIFO_SIZE : 1;
}

static unsigned rx_trigger(const struct uart16550 *uart)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};

    return fifo_enabled(uart) ? levels[uart->fcr >> 6] : 1;
}

static uint8_t head_errors(const struct uart16550 *uart)
{
    return uart->rx_count ? uart->rx_error[uart->rx_head] : 0;
}

// The highest-priority pending interrupt (table 8.6.1), without the FIFO bits.
static uint8_t pending_interrupt(const struct uart16550 *uart)
{
    if ((uart->ier & IER_RLS) && (uart->overrun || head_errors(uart)))
        return IIR_RLS;
    if ((uart->ier & IER_RDA) && uart->rx_count >= rx_trigger(uart))
        return IIR_RDA;
    if ((uart->ier & IER_RDA) && uart->timeout)
        return IIR_TIMEOUT;
    if ((uart->ier & IER_THRE) && uart->thre_pending)
        return IIR_THRE;
    if ((uart->ier & IER_MODEM) && (uart->msr & MSR_DELTA))
        return IIR_MODEM;
    return IIR_NONE;
}

static void update_irq(struct uart16550 *uart)
{
    // In loopback the OUT2 pin is inactive, whatever MCR.OUT2 says (section 8.8).
    bool gate = (uart->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;

    irq_set(&uart->config.irq, gate && pending_interrupt(uart) != IIR_NONE);
}

// Four characters' time: start bit, data bits, parity, stop bits.
static uint64_t timeout_length(const struct uart16550 *uart)
{
    unsigned divisor = uart->dlm << 8 | uart->dll;
    unsigned bits =
        1 + 5 + (uart->lcr & LCR_WORD) + !!(uart->lcr & LCR_PARITY) + 1 + !!(uart->lcr & LCR_STOP);

    if (divisor == 0)
        divisor = 1;
    return (uint64_t)4 * bits * divisor * 1000000000 / BAUD_CLOCK;
}

// A byte came or was read: the timeout starts afresh while bytes wait (section 8.4, interrupt
// mode).
static void restart_timeout(struct uart16550 *uart)
{
    uart->timeout = 0;
    if (fifo_enabled(uart) && uart->rx_count) {
        uart->timeout_ns = clock_now(uart->config.timers->clock) + timeout_length(uart);
        timer_arm(&uart->timer, uart->timeout_ns);
    } else {
        uart->timeout_ns = TIMER_NEVER;
        timer_cancel(&uart->timer);
    }
}

static void timeout_passed(void *opaque)
{
    struct uart16550 *uart = opaque;

    uart->timeout_ns = TIMER_NEVER;
    uart->timeout = uart->rx_count != 0;
    update_irq(uart);
}

static void clear_rx(struct uart16550 *uart)
{
    uart->rx_head = 0;
    uart->rx_count = 0;
    restart_timeout(uart);
}

// The shift register hands over a byte. When the FIFO is full the byte is lost; without FIFO the
// newer byte replaces the older one. Both set OE (section 8.3).
static void rx_push(struct uart16550 *uart, uint8_t byte, uint8_t errors)
{
    if (uart->rx_count >= rx_capacity(uart)) {
        uart->overrun = 1;
        if (fifo_enabled(uart))
            return;
        uart->rx_count = 0;
    }
    unsigned at = (uart->rx_head + uart->rx_count) % UART16550_FIFO_SIZE;
    uart->rx_data[at] = byte;
    uart->rx_error[at] = errors;
    uart->rx_count++;
    restart_timeout(uart);
}

// Tells the host that it may go on. A full FIFO is waited for only until half of it is free: fewer
// calls.
static void offer_room(struct uart16550 *uart)
{
    if (!uart->starved || (uart->mcr & MCR_LOOP) || uart->rx_count > rx_capacity(uart) / 2)
        return;
    uart->starved = 0;
    if (uart->config.room)
        uart->config.room(uart->config.opaque);
}

static uint8_t rx_pop(struct uart16550 *uart)
{
    uint8_t byte = uart->rx_data[uart->rx_head];

    if (uart->rx_count) {
        uart->rx_head = (uart->rx_head + 1) % UART16550_FIFO_SIZE;
        uart->rx_count--;
        restart_timeout(uart);
        update_irq(uart);
        offer_room(uart);
    }
    return byte;
}

static void transmit(struct uart16550 *uart, uint8_t byte)
{
    static const uint8_t word_mask[4] = {0x1F, 0x3F, 0x7F, 0xFF};

    byte &= word_mask[uart->lcr & LCR_WORD];
    uart->thre_pending = 0;
    update_irq(uart); // the edge between two "empty" interrupts
    if (uart->mcr & MCR_LOOP)
        rx_push(uart, byte, 0);
    else if (uart->config.transmit)
        uart->config.transmit(uart->config.opaque, &byte, 1);
    uart->thre_pending = 1;
    update_irq(uart);
}

static uint8_t read_lsr(struct uart16550 *uart)
{
    uint8_t lsr = LSR_THRE | LSR_TEMT | head_errors(uart);

    if (uart->rx_count)
        lsr |= LSR_DR;
    if (uart->overrun)
        lsr |= LSR_OE;
    if (fifo_enabled(uart)) {
        for (unsigned i = 0; i < uart->rx_count; i++)
            if (uart->rx_error[(uart->rx_head + i) % UART16550_FIFO_SIZE])
                lsr |= LSR_FIFO_ERROR;
    }
    uart->overrun = 0;
    if (uart->rx_count)
        uart->rx_error[uart->rx_head] = 0;
    update_irq(uart);
    return lsr;
}

static void set_modem_lines(struct uart16550 *uart, uint8_t lines)
{
    uint8_t changed = (uart->msr ^ lines) & MSR_LINES;
    uint8_t delta = changed >> 4;

    // TERI marks only the trailing edge of RI.
    if ((changed & MSR_RI) && (lines & MSR_RI))
        delta &= ~MSR_TERI;
    uart->msr = (lines & MSR_LINES) | (uart->msr & MSR_DELTA) | delta;
}

// In loopback the modem inputs are the modem outputs (section 8.8).
static uint8_t loop_lines(uint8_t mcr)
{
    return (mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) |
           (mcr & MCR_OUT1 ? MSR_RI : 0) | (mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void write_mcr(struct uart16550 *uart, uint8_t value)
{
    uart->mcr = value & 0x1F;
    set_modem_lines(uart, uart->mcr & MCR_LOOP ? loop_lines(uart->mcr) : uart->modem);
    update_irq(uart);
    offer_room(uart);
}

static void write_fcr(struct uart16550 *uart, uint8_t value)
{
    bool toggled = (uart->fcr ^ value) & FCR_ENABLE;

    // The other bits are programmed only while bit 0 is written as 1 (section 8.4).
    uart->fcr = value & FCR_ENABLE ? value & FCR_STORED : 0;
    if (toggled || (uart->fcr && (value & FCR_CLEAR_RX)))
        clear_rx(uart);
    if (toggled || (uart->fcr && (value & FCR_CLEAR_TX)))
        uart->thre_pending = 1;
    update_irq(uart);
    offer_room(uart);
}

static void write_lcr(struct uart16550 *uart, uint8_t value)
{
    bool begins_break = (value & ~uart->lcr) & LCR_BREAK;

    uart->lcr = value;
    if (begins_break && (uart->mcr & MCR_LOOP)) {
        rx_push(uart, 0, LSR_BI | LSR_FE);
        update_irq(uart);
    }
}

static uint64_t uart_read(void *opaque, uint64_t offset, unsigned size)
{
    struct uart16550 *uart = opaque;
    bool dlab = uart->lcr & LCR_DLAB;
    uint8_t value;

    switch (offset) {
    case REG_DATA:
        return dlab ? uart->dll : rx_pop(uart);
    case REG_IER:
        return dlab ? uart->dlm : uart->ier;
    case REG_IIR:
        value = pending_interrupt(uart);
        if (value == IIR_THRE) {
            uart->thre_pending = 0; // reading it is one of the two ways to clear it
            update_irq(uart);
        }
        return value | (fifo_enabled(uart) ? IIR_FIFO : 0);
    case REG_LCR:
        return uart->lcr;
    case REG_MCR:
        return uart->mcr;
    case REG_LSR:
        return read_lsr(uart);
    case REG_MSR:
        value = uart->msr;
        uart->msr &= ~MSR_DELTA;
        update_irq(uart);
        return value;
    case REG_SCR:
        return uart->scr;
    default:
        return 0xFF;
    }
}

static void uart_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct uart16550 *uart = opaque;
    bool dlab = uart->lcr & LCR_DLAB;
    uint8_t byte = (uint8_t)value;

    switch (offset) {
    case REG_DATA:
        if (dlab)
            uart->dll = byte;
        else
            transmit(uart, byte);
        break;
    case REG_IER:
        if (dlab) {
            uart->dlm = byte;
            break;
        }
        // Enabling the interrupt while THR is empty raises it, every time (section 8.5).
        if ((byte & ~uart->ier) & IER_THRE)
            uart->thre_pending = 1;
        uart->ier = byte & 0x0F;
        update_irq(uart);
        break;
    case REG_IIR:
        write_fcr(uart, byte);
        break;
    case REG_LCR:
        write_lcr(uart, byte);
        break;
    case REG_MCR:
        write_mcr(uart, byte);
        break;
    case REG_SCR:
        uart->scr = byte;
        break;
    default: // LSR is for factory tests, MSR is read-only
        break;
    }
}

static const struct io_ops uart_ops = {
    .read = uart_read, .write = uart_write, .min_size = 1, .max_size = 1};

void uart16550_region(struct uart16550 *uart, uint64_t base, const char *name,
                      struct io_region *region)
{
    *region = (struct io_region){
        .name = name, .base = base, .size = UART16550_REGISTERS, .ops = &uart_ops, .opaque = uart};
}

void uart16550_init(struct uart16550 *uart, const struct uart16550_config *config)
{
    *uart = (struct uart16550){.config = *config,
                               .modem = MSR_CTS | MSR_DSR | MSR_DCD,
                               .dll = 1, // undefined after power-on; 115200 baud serves everybody
                               .timeout_ns = TIMER_NEVER};
    timer_init(&uart->timer, config->timers, timeout_passed, uart);
    uart16550_reset(uart);
}

void uart16550_fini(struct uart16550 *uart)
{
    timer_fini(&uart->timer);
}

// Table 8.2.1: the scratch register, the divisor latch and the line settings of the host survive.
void uart16550_reset(struct uart16550 *uart)
{
    uart->ier = 0;
    uart->fcr = 0;
    uart->lcr = 0;
    uart->mcr = 0;
    uart->msr = uart->modem;
    uart->overrun = 0;
    uart->thre_pending = 0;
    clear_rx(uart);
    update_irq(uart);
    offer_room(uart);
}

size_t uart16550_receive(struct uart16550 *uart, const uint8_t *data, size_t length)
{
    size_t taken = 0;

    while (taken < length && !(uart->mcr & MCR_LOOP) && uart->rx_count < rx_capacity(uart))
        rx_push(uart, data[taken++], 0);
    if (taken < length)
        uart->starved = 1;
    if (taken)
        update_irq(uart);
    return taken;
}

void uart16550_receive_break(struct uart16550 *uart)
{
    if (uart->mcr & MCR_LOOP)
        return;
    rx_push(uart, 0, LSR_BI | LSR_FE);
    update_irq(uart);
}

void uart16550_set_modem(struct uart16550 *uart, uint8_t lines)
{
    uart->modem = lines & MSR_LINES;
    if (!(uart->mcr & MCR_LOOP))
        set_modem_lines(uart, uart->modem);
    update_irq(uart);
}

static int uart_post_load(void *object, struct error *err)
{
    struct uart16550 *uart = object;

    if (uart->rx_head >= UART16550_FIFO_SIZE || uart->rx_count > rx_capacity(uart))
        return error_set(err, ERROR_INPUT, "uart16550: FIFO position out of range");
    if ((uart->ier & ~0x0F) || (uart->fcr & ~FCR_STORED) || (uart->mcr & ~0x1F) ||
        (uart->modem & ~MSR_LINES) || uart->overrun > 1 || uart->thre_pending > 1 ||
        uart->timeout > 1 || uart->starved > 1)
        return error_set(err, ERROR_INPUT, "uart16550: a register has reserved bits set");
    for (unsigned i = 0; i < UART16550_FIFO_SIZE; i++)
        if (uart->rx_error[i] & ~RX_ERRORS)
            return error_set(err, ERROR_INPUT, "uart16550: a received byte has unknown errors");
    if (uart->timeout_ns == TIMER_NEVER)
        timer_cancel(&uart->timer);
    else
        timer_arm(&uart->timer, uart->timeout_ns);
    update_irq(uart);
    uart->starved = 1; // the host's side starts anew: ask it once there is room
    return 0;
}

static const struct state_field uart_fields[] = {STATE_FIELD(struct uart16550, ier),
                                                 STATE_FIELD(struct uart16550, fcr),
                                                 STATE_FIELD(struct uart16550, lcr),
                                                 STATE_FIELD(struct uart16550, mcr),
                                                 STATE_FIELD(struct uart16550, msr),
                                                 STATE_FIELD(struct uart16550, scr),
                                                 STATE_FIELD(struct uart16550, dll),
                                                 STATE_FIELD(struct uart16550, dlm),
                                                 STATE_FIELD(struct uart16550, modem),
                                                 STATE_FIELD(struct uart16550, overrun),
                                                 STATE_FIELD(struct uart16550, thre_pending),
                                                 STATE_FIELD(struct uart16550, timeout),
                                                 STATE_FIELD(struct uart16550, starved),
                                                 STATE_FIELD(struct uart16550, rx_head),
                                                 STATE_FIELD(struct uart16550, rx_count),
                                                 STATE_ARRAY(struct uart16550, rx_data, uint8_t),
                                                 STATE_ARRAY(struct uart16550, rx_error, uint8_t),
                                                 STATE_FIELD(struct uart16550, timeout_ns),
                                                 STATE_TRANSIENT(struct uart16550, timer),
                                                 STATE_TRANSIENT(struct uart16550, config),
                                                 STATE_END};

const struct state_desc uart16550_state = {.name = "uart16550",
                                           .version = 1,
                                           .size = sizeof(struct uart16550),
                                           .fields = uart_fields,
                                           .post_load = uart_post_load};
