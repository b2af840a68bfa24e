// SPDX-License-Identifier: Apache-2.0
// The I/O thread's event loop (epoll): file descriptors, the VM's timers, and calls posted from other
// threads. All input from outside the VM enters through here, so that it can be recorded one day.
#pragma once

#include "base/error.h"
#include "base/timer.h"

struct loop;
struct loop_watch;

typedef void (*loop_fd_fn)(void *opaque, int fd, uint32_t epoll_events);
typedef void (*loop_call_fn)(void *opaque);

// `lock`/`unlock` bracket every callback (the board lock); may be NULL.
struct loop *loop_create(struct timer_queue *timers, void (*lock)(void *), void (*unlock)(void *),
                         void *lock_opaque, struct error *err);
void loop_destroy(struct loop *loop);
// Runs until loop_stop(); returns 0.
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop); // any thread, also a signal handler

// EPOLLIN/EPOLLOUT...; level-triggered. Loop thread or before loop_run().
struct loop_watch *loop_watch_fd(struct loop *loop, int fd, uint32_t events, loop_fd_fn fn,
                                 void *opaque, struct error *err);
void loop_watch_change(struct loop_watch *watch, uint32_t events);
void loop_unwatch(struct loop_watch *watch); // does not close the fd

// Runs fn(opaque) on the loop thread soon. Any thread. Calls keep their order. Returns 0, or -1 when
// memory is exhausted.
int loop_call(struct loop *loop, loop_call_fn fn, void *opaque);
