// SPDX-License-Identifier: Apache-2.0
// The host side of a serial line: the user's terminal, a file, or a UNIX socket.
//
// Output never blocks the VM: what the peer does not take at once waits in a bounded buffer and goes out
// from the I/O thread. Input arrives on the I/O thread. All calls with the board lock held, except open
// and close.
#pragma once

#include "base/loop.h"

struct console;

struct console_client {
    // Input for the device; returns how many bytes were taken. The rest is offered again after
    // console_room().
    size_t (*input)(void *opaque, const uint8_t *data, size_t length);
    // The user typed an escape command (Ctrl-a x and so on); only from a terminal.
    void (*command)(void *opaque, char key);
    void *opaque;
};

// `spec`: "stdio", "none", "file=PATH" (truncated), "socket=PATH" (UNIX stream, one client at a time).
// Returns NULL with err set.
struct console *console_open(const char *spec, struct loop *loop, struct error *err);
void console_attach(struct console *console, const struct console_client *client);
void console_write(struct console *console, const uint8_t *data, size_t length);
void console_room(struct console *console); // the device can take input again
// Sends what is buffered (waiting at most a second), restores the terminal, frees.
void console_close(struct console *console);
