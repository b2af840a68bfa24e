// SPDX-License-Identifier: Apache-2.0
#include "base/loop.h"
#include "base/log.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

struct loop_watch {
    struct loop *loop;
    int fd;
    bool dead;
    loop_fd_fn fn;
    void *opaque;
    struct loop_watch *next; // in loop->watches, or in loop->graveyard once dead
};

struct loop_posted {
    loop_call_fn fn;
    void *opaque;
    struct loop_posted *next;
};

struct loop {
    int epoll_fd, wake_fd;
    struct timer_queue *timers;
    void (*lock)(void *), (*unlock)(void *);
    void *lock_opaque;
    struct loop_watch *watches, *graveyard;
    pthread_mutex_t posted_lock;
    struct loop_posted *posted_first, **posted_tail;
    _Atomic bool stopping;
    // When the thread sleeps until: a timer armed for later than this needs no wake-up.
    _Atomic uint64_t sleeping_until;
};

static void loop_wake(struct loop *loop)
{
    uint64_t one = 1;
    ssize_t ignored = write(loop->wake_fd, &one, sizeof(one)); // async-signal-safe; EAGAIN is fine
    (void)ignored;
}

static void loop_rearmed(void *opaque, uint64_t deadline_ns)
{
    struct loop *loop = opaque;
    if (deadline_ns < loop->sleeping_until)
        loop_wake(loop);
}

struct loop *loop_create(struct timer_queue *timers, void (*lock)(void *), void (*unlock)(void *),
                         void *lock_opaque, struct error *err)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (!loop) {
        error_set(err, ERROR_HOST, "out of memory for the event loop");
        return NULL;
    }
    loop->timers = timers;
    loop->lock = lock;
    loop->unlock = unlock;
    loop->lock_opaque = lock_opaque;
    loop->posted_tail = &loop->posted_first;
    pthread_mutex_init(&loop->posted_lock, NULL);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (loop->epoll_fd < 0 || loop->wake_fd < 0 ||
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &event) < 0) {
        error_set(err, ERROR_HOST, "cannot create the event loop: %s", strerror(errno));
        loop_destroy(loop);
        return NULL;
    }
    if (timers) {
        timers->rearmed_opaque = loop;
        timers->rearmed = loop_rearmed;
    }
    return loop;
}

void loop_destroy(struct loop *loop)
{
    if (!loop)
        return;
    if (loop->timers && loop->timers->rearmed_opaque == loop)
        loop->timers->rearmed = NULL;
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    for (struct loop_watch *w = loop->watches, *next; w; w = next) {
        next = w->next;
        free(w);
    }
    for (struct loop_watch *w = loop->graveyard, *next; w; w = next) {
        next = w->next;
        free(w);
    }
    for (struct loop_posted *p = loop->posted_first, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    pthread_mutex_destroy(&loop->posted_lock);
    free(loop);
}

struct loop_watch *loop_watch_fd(struct loop *loop, int fd, uint32_t events, loop_fd_fn fn,
                                 void *opaque, struct error *err)
{
    struct loop_watch *watch = calloc(1, sizeof(*watch));
    struct epoll_event event = {.events = events, .data.ptr = watch};
    if (!watch) {
        error_set(err, ERROR_HOST, "out of memory for the event loop");
        return NULL;
    }
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        error_set(err, ERROR_HOST, "cannot wait for file descriptor %d: %s", fd, strerror(errno));
        free(watch);
        return NULL;
    }
    *watch = (struct loop_watch){
        .loop = loop, .fd = fd, .fn = fn, .opaque = opaque, .next = loop->watches};
    loop->watches = watch;
    return watch;
}

void loop_watch_change(struct loop_watch *watch, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = watch};
    epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event);
}

void loop_unwatch(struct loop_watch *watch)
{
    struct loop *loop = watch->loop;
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    for (struct loop_watch **p = &loop->watches; *p; p = &(*p)->next) {
        if (*p == watch) {
            *p = watch->next;
            break;
        }
    }
    // An event for it may already be in the batch being handled: free it after the batch.
    watch->dead = true;
    watch->next = loop->graveyard;
    loop->graveyard = watch;
}

int loop_call(struct loop *loop, loop_call_fn fn, void *opaque)
{
    struct loop_posted *posted = malloc(sizeof(*posted));
    if (!posted)
        return -1;
    *posted = (struct loop_posted){.fn = fn, .opaque = opaque};
    pthread_mutex_lock(&loop->posted_lock);
    *loop->posted_tail = posted;
    loop->posted_tail = &posted->next;
    pthread_mutex_unlock(&loop->posted_lock);
    loop_wake(loop);
    return 0;
}

static void loop_run_posted(struct loop *loop)
{
    pthread_mutex_lock(&loop->posted_lock);
    struct loop_posted *list = loop->posted_first;
    loop->posted_first = NULL;
    loop->posted_tail = &loop->posted_first;
    pthread_mutex_unlock(&loop->posted_lock);
    while (list) {
        struct loop_posted *next = list->next;
        list->fn(list->opaque);
        free(list);
        list = next;
    }
}

void loop_stop(struct loop *loop)
{
    loop->stopping = true;
    loop_wake(loop);
}

// Waits for events until `deadline` on the timers' clock. Nanosecond waits: a guest's timer interrupt
// should not be late by a rounded-up millisecond.
static int loop_wait(struct loop *loop, struct epoll_event *events, int max, uint64_t deadline)
{
    struct timespec ts, *timeout = NULL;
    if (deadline != TIMER_NEVER) {
        uint64_t now = clock_now(loop->timers->clock);
        uint64_t ns = deadline > now ? deadline - now : 0;
        ts.tv_sec = (time_t)(ns / 1000000000u);
        ts.tv_nsec = (long)(ns % 1000000000u);
        timeout = &ts;
    }
    return epoll_pwait2(loop->epoll_fd, events, max, timeout, NULL);
}

int loop_run(struct loop *loop)
{
    struct epoll_event events[32];

    while (!loop->stopping) {
        // Announce the sleep first, then look at the queue: a timer armed in between either is seen
        // here or sees a large sleeping_until and wakes us.
        loop->sleeping_until = TIMER_NEVER;
        uint64_t next = loop->timers ? timer_queue_next(loop->timers) : TIMER_NEVER;
        loop->sleeping_until = next;
        if (loop->timers && timer_queue_next(loop->timers) < next)
            continue;
        int n = loop_wait(loop, events, (int)ARRAY_SIZE(events), next);
        loop->sleeping_until = 0;
        if (n < 0 && errno != EINTR) {
            log_error("event loop: %s", strerror(errno));
            return -1;
        }
        if (loop->lock)
            loop->lock(loop->lock_opaque);
        for (int i = 0; i < n; i++) {
            struct loop_watch *watch = events[i].data.ptr;
            if (!watch) {
                uint64_t drained;
                ssize_t ignored = read(loop->wake_fd, &drained, sizeof(drained));
                (void)ignored;
            } else if (!watch->dead) {
                watch->fn(watch->opaque, watch->fd, events[i].events);
            }
        }
        loop_run_posted(loop);
        if (loop->timers)
            timer_queue_run(loop->timers);
        if (loop->unlock)
            loop->unlock(loop->lock_opaque);
        while (loop->graveyard) {
            struct loop_watch *watch = loop->graveyard;
            loop->graveyard = watch->next;
            free(watch);
        }
    }
    return 0;
}
