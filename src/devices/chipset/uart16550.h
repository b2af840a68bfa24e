// SPDX-License-Identifier: Apache-2.0
// A 16550A UART as on a PC's COM port (National Semiconductor PC16550D data sheet, 1995).
//
// The guest sees eight byte-wide registers; the host sees a transmit callback and
// uart16550_receive(). The transmitter is never busy: a byte written to THR goes to the host at
// once, and the "holding register empty" interrupt follows as if the shift register had taken it.
// The receiver keeps the FIFO, its trigger levels and the character timeout exactly.
//
// Rules to keep: every call with the board lock held; the interrupt output follows INTRPT gated by
// MCR.OUT2, as PC boards wire it.
#pragma once

#include "base/state.h"
#include "base/timer.h"
#include "devices/irq.h"
#include "memory/memory.h"

#define UART16550_FIFO_SIZE 16
#define UART16550_REGISTERS 8

struct uart16550_config {
    struct timer_queue *timers; // for the receive timeout; its clock is the device's clock
    struct irq_line irq;
    // Bytes for the host; never called with length 0. May be NULL.
    void (*transmit)(void *opaque, const uint8_t *data, size_t length);
    // The receiver has room again after uart16550_receive() accepted less than it was given. May
    // call uart16550_receive(). May be NULL.
    void (*room)(void *opaque);
    void *opaque;
};

struct uart16550 {
    uint8_t ier, fcr, lcr, mcr, msr, scr, dll, dlm;
    uint8_t modem;        // modem inputs from the host, in MSR's place
    uint8_t overrun;      // LSR.OE, sticky until LSR is read
    uint8_t thre_pending; // the transmitter's interrupt latch
    uint8_t timeout;      // the character timeout has passed
    uint8_t starved;      // the host has more than we took
    uint8_t rx_head, rx_count;
    uint8_t rx_data[UART16550_FIFO_SIZE];
    uint8_t rx_error[UART16550_FIFO_SIZE]; // LSR.PE, FE and BI of each byte
    uint64_t timeout_ns;                   // when the timeout will pass, or TIMER_NEVER
    struct timer timer;
    struct uart16550_config config;
};

extern const struct state_desc uart16550_state;

void uart16550_init(struct uart16550 *uart, const struct uart16550_config *config);
void uart16550_fini(struct uart16550 *uart);
void uart16550_reset(struct uart16550 *uart);
// Fills the register window for a port base such as 0x3F8; the board registers it.
void uart16550_region(struct uart16550 *uart, uint64_t base, const char *name,
                      struct io_region *region);

// Offers bytes from the host; returns how many were taken (0 to length). After a short count the
// `room` callback tells when to offer the rest.
size_t uart16550_receive(struct uart16550 *uart, const uint8_t *data, size_t length);
// A break condition on the line (a terminal's "send break").
void uart16550_receive_break(struct uart16550 *uart);
// Modem inputs from the host, in MSR's place (bit 4 CTS, 5 DSR, 6 RI, 7 DCD).
void uart16550_set_modem(struct uart16550 *uart, uint8_t lines);
