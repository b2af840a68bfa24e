// SPDX-License-Identifier: Apache-2.0
// A binary min-heap of deadlines. Each timer knows its heap index, so that arm and cancel are O(log n);
// the heap's storage is reserved when a timer is registered, so that arming never allocates.
#include "base/timer.h"
#include <stdlib.h>

#define NOT_IN_HEAP SIZE_MAX

void timer_queue_init(struct timer_queue *queue, struct clock *clock)
{
    *queue = (struct timer_queue){.clock = clock};
    pthread_mutex_init(&queue->lock, NULL);
}

void timer_queue_destroy(struct timer_queue *queue)
{
    pthread_mutex_destroy(&queue->lock);
    free(queue->heap);
    queue->heap = NULL;
    queue->capacity = queue->count = 0;
}

static void heap_put(struct timer_queue *queue, size_t i, struct timer *timer)
{
    queue->heap[i] = timer;
    timer->heap_index = i;
}

static void heap_up(struct timer_queue *queue, size_t i)
{
    struct timer *timer = queue->heap[i];
    while (i > 0) {
        size_t parent = (i - 1) / 2;
        if (queue->heap[parent]->deadline_ns <= timer->deadline_ns)
            break;
        heap_put(queue, i, queue->heap[parent]);
        i = parent;
    }
    heap_put(queue, i, timer);
}

static void heap_down(struct timer_queue *queue, size_t i)
{
    struct timer *timer = queue->heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= queue->count)
            break;
        if (child + 1 < queue->count &&
            queue->heap[child + 1]->deadline_ns < queue->heap[child]->deadline_ns)
            child++;
        if (timer->deadline_ns <= queue->heap[child]->deadline_ns)
            break;
        heap_put(queue, i, queue->heap[child]);
        i = child;
    }
    heap_put(queue, i, timer);
}

static void heap_remove(struct timer_queue *queue, struct timer *timer)
{
    size_t i = timer->heap_index;
    struct timer *last = queue->heap[--queue->count];

    timer->heap_index = NOT_IN_HEAP;
    if (last == timer)
        return;
    heap_put(queue, i, last);
    heap_up(queue, i);
    heap_down(queue, last->heap_index);
}

void timer_init(struct timer *timer, struct timer_queue *queue, timer_fn fn, void *opaque)
{
    *timer = (struct timer){.queue = queue,
                            .fn = fn,
                            .opaque = opaque,
                            .deadline_ns = TIMER_NEVER,
                            .heap_index = NOT_IN_HEAP};
    pthread_mutex_lock(&queue->lock);
    size_t capacity = queue->capacity + 1;
    struct timer **heap = realloc(queue->heap, capacity * sizeof(*heap));
    if (heap) {
        queue->heap = heap;
        queue->capacity = capacity;
    } else {
        timer->queue = NULL; // such a timer never fires; machine creation fails for lack of memory
    }
    pthread_mutex_unlock(&queue->lock);
}

void timer_fini(struct timer *timer)
{
    if (!timer->queue)
        return;
    timer_cancel(timer);
    pthread_mutex_lock(&timer->queue->lock);
    timer->queue->capacity--; // the reserved slot; storage shrinks with the queue
    pthread_mutex_unlock(&timer->queue->lock);
    timer->queue = NULL;
}

void timer_arm(struct timer *timer, uint64_t deadline_ns)
{
    struct timer_queue *queue = timer->queue;

    if (deadline_ns == TIMER_NEVER) {
        timer_cancel(timer);
        return;
    }
    if (!queue)
        return;
    pthread_mutex_lock(&queue->lock);
    timer->deadline_ns = deadline_ns;
    if (timer->heap_index == NOT_IN_HEAP) {
        heap_put(queue, queue->count, timer);
        heap_up(queue, queue->count++);
    } else {
        heap_up(queue, timer->heap_index);
        heap_down(queue, timer->heap_index);
    }
    if (queue->heap[0] == timer && queue->rearmed)
        queue->rearmed(queue->rearmed_opaque, deadline_ns);
    pthread_mutex_unlock(&queue->lock);
}

void timer_cancel(struct timer *timer)
{
    struct timer_queue *queue = timer->queue;

    if (!queue)
        return;
    pthread_mutex_lock(&queue->lock);
    if (timer->heap_index != NOT_IN_HEAP)
        heap_remove(queue, timer);
    timer->deadline_ns = TIMER_NEVER;
    pthread_mutex_unlock(&queue->lock);
}

uint64_t timer_queue_next(struct timer_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    uint64_t next = queue->count ? queue->heap[0]->deadline_ns : TIMER_NEVER;
    pthread_mutex_unlock(&queue->lock);
    return next;
}

uint64_t timer_queue_run(struct timer_queue *queue)
{
    // Timers that are armed again by their callback for a time already past wait for the next call, so
    // that a guest's zero period cannot keep this loop from returning.
    uint64_t now = clock_now(queue->clock);

    for (size_t budget = queue->capacity; budget > 0; budget--) {
        pthread_mutex_lock(&queue->lock);
        struct timer *timer = queue->count ? queue->heap[0] : NULL;
        if (!timer || timer->deadline_ns > now) {
            pthread_mutex_unlock(&queue->lock);
            break;
        }
        heap_remove(queue, timer);
        timer->deadline_ns = TIMER_NEVER;
        pthread_mutex_unlock(&queue->lock);
        timer->fn(timer->opaque);
    }
    return timer_queue_next(queue);
}
