// SPDX-License-Identifier: Apache-2.0
#include "backend/console.h"
#include "backend/terminal.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define OUTPUT_MAX (4u << 20) // then the oldest output is lost, with a warning
#define OUTPUT_CHUNK 512      // a poll()ed pipe or terminal takes this much without blocking
#define ESCAPE_KEY 0x01       // Ctrl-a

struct console {
    struct loop *loop;
    struct console_client client;
    int in_fd, out_fd, listen_fd;
    struct loop_watch *in_watch, *out_watch, *listen_watch;
    int out_dup;   // what out_watch watches: in_fd and out_fd may be one descriptor
    bool pollable; // out_fd is a terminal, pipe or socket; a regular file never blocks
    bool is_terminal, escaped;
    char *socket_path;
    uint8_t *out; // waiting output
    size_t out_size, out_capacity;
    bool out_warned;
    uint8_t in[256]; // input the device had no room for
    size_t in_size;
};

static void console_writable(void *opaque, int fd, uint32_t events);
static void console_readable(void *opaque, int fd, uint32_t events);

// --- output ----------------------------------------------------------------------------------------

static bool fd_ready(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    return poll(&p, 1, 0) == 1 && (p.revents & (POLLOUT | POLLERR | POLLHUP));
}

// Writes what goes out without blocking; returns how much of it is done with (also when the peer is
// gone: then there is nobody to keep it for).
static size_t write_some(struct console *c, const uint8_t *data, size_t length)
{
    size_t done = 0;
    while (done < length) {
        size_t part = length - done;
        if (c->pollable) {
            if (part > OUTPUT_CHUNK)
                part = OUTPUT_CHUNK;
            if (!fd_ready(c->out_fd))
                break;
        }
        ssize_t n = c->listen_fd >= 0
                        ? send(c->out_fd, data + done, part, MSG_NOSIGNAL | MSG_DONTWAIT)
                        : write(c->out_fd, data + done, part);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n <= 0)
            return length;
        done += (size_t)n;
    }
    return done;
}

static void buffer_output(struct console *c, const uint8_t *data, size_t length)
{
    if (length > OUTPUT_MAX) {
        data += length - OUTPUT_MAX;
        length = OUTPUT_MAX;
    }
    if (c->out_size + length > OUTPUT_MAX) {
        size_t drop = c->out_size + length - OUTPUT_MAX;
        // A quarter at once: making room byte by byte would move the whole buffer for each.
        if (drop < OUTPUT_MAX / 4)
            drop = OUTPUT_MAX / 4;
        if (drop > c->out_size)
            drop = c->out_size;
        memmove(c->out, c->out + drop, c->out_size - drop);
        c->out_size -= drop;
        if (!c->out_warned)
            log_warn("console output is not being read: the oldest is dropped");
        c->out_warned = true;
    }
    if (c->out_size + length > c->out_capacity) {
        size_t capacity = (c->out_size + length) * 2;
        uint8_t *grown = realloc(c->out, capacity);
        if (!grown)
            return;
        c->out = grown;
        c->out_capacity = capacity;
    }
    memcpy(c->out + c->out_size, data, length);
    c->out_size += length;
}

void console_write(struct console *c, const uint8_t *data, size_t length)
{
    if (c->out_fd < 0)
        return;
    size_t done = c->out_size ? 0 : write_some(c, data, length);
    if (done < length) {
        buffer_output(c, data + done, length - done);
        if (!c->out_watch) {
            c->out_dup = fcntl(c->out_fd, F_DUPFD_CLOEXEC, 0);
            if (c->out_dup >= 0)
                c->out_watch =
                    loop_watch_fd(c->loop, c->out_dup, EPOLLOUT, console_writable, c, NULL);
            if (c->out_dup >= 0 && !c->out_watch)
                close(c->out_dup);
        }
    }
}

static void unwatch_output(struct console *c)
{
    if (c->out_watch) {
        loop_unwatch(c->out_watch);
        close(c->out_dup);
        c->out_watch = NULL;
    }
}

static void flush_output(struct console *c)
{
    size_t done = c->out_fd < 0 ? c->out_size : write_some(c, c->out, c->out_size);
    memmove(c->out, c->out + done, c->out_size - done);
    c->out_size -= done;
}

static void console_writable(void *opaque, int fd, uint32_t events)
{
    struct console *c = opaque;
    flush_output(c);
    if (c->out_size == 0)
        unwatch_output(c);
}

// --- input -----------------------------------------------------------------------------------------

static void console_give(struct console *c)
{
    if (!c->client.input || c->in_size == 0)
        return;
    size_t taken = c->client.input(c->client.opaque, c->in, c->in_size);
    if (taken > c->in_size)
        taken = c->in_size;
    memmove(c->in, c->in + taken, c->in_size - taken);
    c->in_size -= taken;
}

void console_room(struct console *c)
{
    console_give(c);
    if (c->in_size < sizeof(c->in) && c->in_watch)
        loop_watch_change(c->in_watch, EPOLLIN);
}

static void take_key(struct console *c, uint8_t byte)
{
    if (c->is_terminal) {
        if (!c->escaped && byte == ESCAPE_KEY) {
            c->escaped = true;
            return;
        }
        if (c->escaped) {
            c->escaped = false;
            if (byte != ESCAPE_KEY && byte != 'a') {
                if (c->client.command)
                    c->client.command(c->client.opaque, (char)byte);
                return;
            }
            byte = ESCAPE_KEY;
        }
    }
    if (c->in_size < sizeof(c->in))
        c->in[c->in_size++] = byte;
}

static void console_hangup(struct console *c)
{
    if (c->in_watch)
        loop_unwatch(c->in_watch);
    c->in_watch = NULL;
    if (c->listen_fd >= 0) {
        unwatch_output(c);
        close(c->in_fd);
        c->in_fd = c->out_fd = -1;
        c->out_size = 0;
    }
}

static void console_readable(void *opaque, int fd, uint32_t events)
{
    struct console *c = opaque;
    uint8_t data[sizeof(c->in)];
    size_t room = sizeof(c->in) - c->in_size;

    if (room == 0 && !c->is_terminal) {
        loop_watch_change(c->in_watch, 0); // until console_room()
        return;
    }
    // A terminal is read even when the device takes nothing: the escape keys must work with a dead guest.
    ssize_t n = read(fd, data, room ? room : sizeof(data));
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        console_hangup(c);
        return;
    }
    for (ssize_t i = 0; i < n; i++)
        take_key(c, data[i]);
    console_give(c);
}

static void console_accept(void *opaque, int fd, uint32_t events)
{
    struct console *c = opaque;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (client < 0)
        return;
    if (c->in_fd >= 0) {
        static const char busy[] = "croft: another client has this console\r\n";
        send(client, busy, sizeof(busy) - 1, MSG_NOSIGNAL);
        close(client);
        return;
    }
    c->in_fd = c->out_fd = client;
    c->in_watch = loop_watch_fd(c->loop, client, EPOLLIN, console_readable, c, NULL);
}

// --- open and close --------------------------------------------------------------------------------

static int open_stdio(struct console *c, struct error *err)
{
    struct stat st;

    c->is_terminal = terminal_raw();
    c->in_fd = STDIN_FILENO;
    c->out_fd = STDOUT_FILENO;
    c->pollable = fstat(STDOUT_FILENO, &st) == 0 && !S_ISREG(st.st_mode);
    // A regular file or /dev/null as stdin cannot be waited for; it has nothing to say to a guest.
    c->in_watch = loop_watch_fd(c->loop, STDIN_FILENO, EPOLLIN, console_readable, c, NULL);
    return 0;
}

static int open_file(struct console *c, const char *path, struct error *err)
{
    c->out_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (c->out_fd < 0)
        return error_set(err, ERROR_INPUT, "--serial file='%s': %s", path, strerror(errno));
    return 0;
}

static int open_socket(struct console *c, const char *path, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;

    if (strlen(path) >= sizeof(address.sun_path))
        return error_set(err, ERROR_USAGE, "--serial socket='%s': the path is longer than %zu",
                         path, sizeof(address.sun_path) - 1);
    strcpy(address.sun_path, path);
    if (lstat(path, &st) == 0) {
        if (!S_ISSOCK(st.st_mode))
            return error_set(
                err, ERROR_INPUT,
                "--serial socket='%s': a file that is no socket is in the way; remove it", path);
        unlink(path); // left over from an earlier run
    }
    c->pollable = true;
    c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->listen_fd < 0 || bind(c->listen_fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(c->listen_fd, 1) < 0)
        return error_set(err, ERROR_INPUT, "--serial socket='%s': %s", path, strerror(errno));
    c->socket_path = strdup(path);
    c->listen_watch = loop_watch_fd(c->loop, c->listen_fd, EPOLLIN, console_accept, c, err);
    return c->listen_watch ? 0 : -1;
}

struct console *console_open(const char *spec, struct loop *loop, struct error *err)
{
    struct console *c = calloc(1, sizeof(*c));
    int result = 0;

    if (!c) {
        error_set(err, ERROR_HOST, "out of memory for a console");
        return NULL;
    }
    c->loop = loop;
    c->in_fd = c->out_fd = c->listen_fd = -1;
    if (strcmp(spec, "stdio") == 0)
        result = open_stdio(c, err);
    else if (strncmp(spec, "file=", 5) == 0 && spec[5])
        result = open_file(c, spec + 5, err);
    else if (strncmp(spec, "socket=", 7) == 0 && spec[7])
        result = open_socket(c, spec + 7, err);
    else if (strcmp(spec, "none") != 0)
        result =
            error_set(err, ERROR_USAGE,
                      "--serial '%s' is unknown; use stdio, file=PATH, socket=PATH or none", spec);
    if (result < 0) {
        console_close(c);
        return NULL;
    }
    return c;
}

void console_attach(struct console *c, const struct console_client *client)
{
    c->client = *client;
}

void console_close(struct console *c)
{
    if (!c)
        return;
    // What the guest said last matters most (a panic): give the peer a second to take it.
    for (int i = 0; i < 100 && c->out_size && c->out_fd >= 0; i++) {
        flush_output(c);
        if (c->out_size)
            poll(NULL, 0, 10);
    }
    if (c->is_terminal)
        terminal_restore();
    unwatch_output(c);
    if (c->in_watch)
        loop_unwatch(c->in_watch);
    if (c->listen_watch)
        loop_unwatch(c->listen_watch);
    if (c->listen_fd >= 0)
        close(c->listen_fd);
    if (c->out_fd > STDERR_FILENO)
        close(c->out_fd);
    if (c->socket_path)
        unlink(c->socket_path);
    free(c->socket_path);
    free(c->out);
    free(c);
}
