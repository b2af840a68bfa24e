// SPDX-License-Identifier: Apache-2.0
// Timers, the event loop and described state.
#include "base/loop.h"
#include "base/state.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cmocka.h>

static int fired[64], fired_count;
static void fire(void *opaque)
{
    fired[fired_count++] = (int)(intptr_t)opaque;
}

static void timers_fire_in_order(void **state)
{
    struct clock_counted clock;
    struct timer_queue queue;
    struct timer t[20];

    clock_counted_init(&clock, 0);
    timer_queue_init(&queue, &clock.clock);
    for (int i = 0; i < 20; i++) {
        timer_init(&t[i], &queue, fire, (void *)(intptr_t)i);
        timer_arm(&t[i], (uint64_t)((i * 7) % 20 + 1) * 10);
    }
    timer_cancel(&t[3]);
    timer_arm(&t[4], 5);
    fired_count = 0;
    for (int step = 0; step < 300; step++) {
        clock_counted_advance(&clock, 1);
        timer_queue_run(&queue);
    }
    assert_int_equal(fired_count, 19);
    assert_int_equal(fired[0], 4);
    for (int i = 2; i < fired_count; i++)
        assert_true((fired[i - 1] * 7) % 20 < (fired[i] * 7) % 20);
    assert_true(timer_queue_next(&queue) == TIMER_NEVER);
    for (int i = 0; i < 20; i++)
        timer_fini(&t[i]);
    timer_queue_destroy(&queue);
}

static struct timer *self_arming;
static void arm_again(void *opaque)
{
    fired_count++;
    timer_arm(self_arming, 0);
}

static void a_zero_period_does_not_hang(void **state)
{
    struct clock_counted clock;
    struct timer_queue queue;
    struct timer timer;

    clock_counted_init(&clock, 0);
    timer_queue_init(&queue, &clock.clock);
    timer_init(&timer, &queue, arm_again, NULL);
    self_arming = &timer;
    timer_arm(&timer, 0);
    fired_count = 0;
    timer_queue_run(&queue);
    assert_true(fired_count >= 1 && fired_count < 10);
    timer_fini(&timer);
    timer_queue_destroy(&queue);
}

struct loop_test {
    struct loop *loop;
    int calls;
};
static void loop_called(void *opaque)
{
    struct loop_test *test = opaque;
    if (++test->calls == 3)
        loop_stop(test->loop);
}
static void loop_readable(void *opaque, int fd, uint32_t events)
{
    char byte;
    assert_int_equal(read(fd, &byte, 1), 1);
    loop_called(opaque);
}

static void loop_runs_timers_files_and_calls(void **state)
{
    struct clock_real clock;
    struct timer_queue queue;
    struct timer timer;
    struct loop_test test = {0};
    int pipe_fds[2];

    clock_real_init(&clock);
    timer_queue_init(&queue, &clock.clock);
    test.loop = loop_create(&queue, NULL, NULL, NULL, NULL);
    assert_non_null(test.loop);
    timer_init(&timer, &queue, loop_called, &test);
    timer_arm(&timer, clock_now(&clock.clock) + 2000000);
    assert_int_equal(pipe(pipe_fds), 0);
    assert_non_null(loop_watch_fd(test.loop, pipe_fds[0], EPOLLIN, loop_readable, &test, NULL));
    assert_int_equal(write(pipe_fds[1], "x", 1), 1);
    assert_int_equal(loop_call(test.loop, loop_called, &test), 0);
    assert_int_equal(loop_run(test.loop), 0);
    assert_int_equal(test.calls, 3);
    timer_fini(&timer);
    loop_destroy(test.loop);
    timer_queue_destroy(&queue);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void a_stopped_clock_stands_still(void **state)
{
    struct clock_real clock;
    clock_real_init(&clock);
    usleep(2000);
    clock_real_stop(&clock);
    uint64_t t = clock_now(&clock.clock);
    assert_true(t >= 2000000);
    usleep(2000);
    assert_true(clock_now(&clock.clock) == t);
    clock_real_start(&clock);
    assert_true(clock_now(&clock.clock) - t < 200000000); // a loaded host may keep us waiting
}

struct inner {
    uint8_t a;
    uint32_t b[3];
};
struct outer {
    uint64_t x;
    bool flag;
    struct inner in[2];
    void *wiring;
};
static const struct state_field inner_fields[] = {
    STATE_FIELD(struct inner, a), STATE_ARRAY(struct inner, b, uint32_t), STATE_END};
static const struct state_field outer_fields[] = {
    STATE_FIELD(struct outer, x), STATE_FIELD(struct outer, flag),
    STATE_STRUCT(struct outer, in, struct inner, inner_fields),
    STATE_TRANSIENT(struct outer, wiring), STATE_END};
static const struct state_desc outer_desc = {
    .name = "outer", .version = 3, .size = sizeof(struct outer), .fields = outer_fields};
static const struct state_field gap_fields[] = {
    STATE_FIELD(struct outer, x), STATE_STRUCT(struct outer, in, struct inner, inner_fields),
    STATE_TRANSIENT(struct outer, wiring), STATE_END};
static const struct state_desc gap_desc = {
    .name = "gap", .version = 1, .size = sizeof(struct outer), .fields = gap_fields};

static void state_round_trips(void **state)
{
    struct outer a = {7, true, {{1, {2, 3, 4}}, {5, {6, 7, 8}}}, &a}, b = {.wiring = &b};
    struct state_buffer buffer = {0};
    struct error err = {0};
    size_t offset = 0;
    char why[200];

    assert_true(state_desc_check(&outer_desc, why, sizeof(why)));
    assert_int_equal(state_save(&buffer, &outer_desc, &a), 0);
    assert_int_equal(state_load(&buffer, &offset, &outer_desc, &b, &err), 0);
    assert_int_equal(offset, buffer.size);
    assert_true(b.x == 7 && b.flag && b.in[1].b[2] == 8 && b.wiring == &b);
    state_buffer_free(&buffer);
}

static void a_forgotten_field_is_found(void **state)
{
    char why[200];
    assert_false(state_desc_check(&gap_desc, why, sizeof(why)));
    assert_non_null(strstr(why, "before 'in'"));
}

static void damaged_state_is_refused_whole(void **state)
{
    struct outer a = {7, true, {{1, {2, 3, 4}}, {5, {6, 7, 8}}}, NULL};
    struct state_buffer buffer = {0};
    assert_int_equal(state_save(&buffer, &outer_desc, &a), 0);
    for (size_t cut = 0; cut < buffer.size; cut++) {
        struct state_buffer shorter = {buffer.data, cut, cut};
        struct outer b = {0}, zero = {0};
        struct error err = {0};
        size_t offset = 0;
        assert_int_equal(state_load(&shorter, &offset, &outer_desc, &b, &err), -1);
        assert_int_equal(err.kind, ERROR_INPUT);
        assert_memory_equal(&b, &zero, sizeof(b));
    }
    for (size_t at = 0; at < buffer.size; at++) { // any byte changed: an error or a valid load
        struct outer b = {0};
        struct error err = {0};
        size_t offset = 0;
        buffer.data[at] ^= 0x40;
        if (state_load(&buffer, &offset, &outer_desc, &b, &err) < 0)
            assert_int_equal(err.kind, ERROR_INPUT);
        buffer.data[at] ^= 0x40;
    }
    state_buffer_free(&buffer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_in_order),
        cmocka_unit_test(a_zero_period_does_not_hang),
        cmocka_unit_test(loop_runs_timers_files_and_calls),
        cmocka_unit_test(a_stopped_clock_stands_still),
        cmocka_unit_test(state_round_trips),
        cmocka_unit_test(a_forgotten_field_is_found),
        cmocka_unit_test(damaged_state_is_refused_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
