// SPDX-License-Identifier: Apache-2.0
// The guest-physical address space: overlaps, splits, all-ones, A20, dirty and code tracking.
#include "memory/memory.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct {
    uint64_t offset, value;
    unsigned size;
} seen[16];
static int seen_count;

static uint64_t chip_read(void *opaque, uint64_t offset, unsigned size)
{
    return 0x8877665544332211u >> (offset % 8 * 8);
}
static void chip_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    seen[seen_count].offset = offset;
    seen[seen_count].value = value;
    seen[seen_count++].size = size;
}
static const struct io_ops byte_chip = {chip_read, chip_write, 1, 1};
static const struct io_ops wide_chip = {chip_read, chip_write, 4, 4};

static void ranges_do_not_overlap(void **state)
{
    struct memory *m = memory_create(NULL);
    struct io_region a = {"a", 0x1000, 0x10, &byte_chip, NULL};
    struct io_region b = {"b", 0x100f, 0x10, &byte_chip, NULL};
    struct error err = {0};

    assert_int_equal(memory_add_ram(m, "ram", 0x100000, 0x100000, NULL), 0);
    assert_int_equal(memory_add_ram(m, "ram2", 0x1ff000, 0x2000, &err), -1);
    assert_non_null(strstr(err.message, "overlaps 'ram'"));
    assert_int_equal(memory_add_mmio(m, &a, NULL), 0);
    assert_int_equal(memory_add_mmio(m, &b, NULL), -1);
    b.base = 0x1ffff0;
    assert_int_equal(memory_add_mmio(m, &b, NULL), -1);
    b.base = 0xfff8;
    assert_int_equal(memory_add_pio(m, &b, NULL), -1); // leaves the port space
    assert_int_equal(memory_add_ram(m, "odd", 0x1001, 0x1000, NULL), -1);
    memory_destroy(m);
}

static void wide_accesses_are_split(void **state)
{
    struct memory *m = memory_create(NULL);
    struct io_region a = {"a", 0x70, 2, &byte_chip, NULL};
    struct io_region w = {"w", 0xfee00000, 0x1000, &wide_chip, NULL};

    memory_add_pio(m, &a, NULL);
    memory_add_mmio(m, &w, NULL);
    assert_int_equal(memory_pio_read(m, 0x70, 4), 0xffff2211u);
    assert_int_equal(memory_pio_read(m, 0x6f, 2), 0x11ffu);
    assert_int_equal(memory_pio_read(m, 0xffff, 4), 0xffffffffu); // beyond the last port
    seen_count = 0;
    memory_pio_write(m, 0x6f, 0xaabbccdd, 4);
    assert_int_equal(seen_count, 2);
    assert_int_equal(seen[0].value, 0xcc);
    assert_int_equal(seen[1].value, 0xbb);
    assert_true(memory_mmio_read(m, 0xfee00000, 8) == 0x4433221144332211u ||
                memory_mmio_read(m, 0xfee00000, 8) == 0x8877665544332211u);
    assert_int_equal(memory_mmio_read(m, 0xfee00000, 2), 0xffff); // narrower than min_size
    seen_count = 0;
    memory_mmio_write(m, 0xfee00010, 1, 2);
    assert_int_equal(seen_count, 0);
    memory_lock(m);
    memory_remove_pio(m, 0x70, NULL);
    memory_unlock(m);
    assert_int_equal(memory_pio_read(m, 0x70, 1), 0xff);
    memory_destroy(m);
}

static void copies_are_all_or_nothing(void **state)
{
    struct memory *m = memory_create(NULL);
    uint8_t data[32] = {1, 2, 3}, back[32] = {0};

    memory_add_ram(m, "low", 0, 0x2000, NULL);
    memory_add_ram(m, "next", 0x2000, 0x1000, NULL);
    memory_add_rom(m, "rom", 0x3000, "firmware", 8, NULL);
    assert_true(memory_write(m, 0x1ff0, data, 32)); // over two blocks
    assert_true(memory_read(m, 0x1ff0, back, 32));
    assert_memory_equal(data, back, 32);
    assert_false(memory_write(m, 0x3ff0, data, 32));
    assert_false(memory_read(m, UINT64_MAX - 3, back, 8)); // wraps
    assert_false(memory_read(m, 0x4000, back, 1));
    assert_true(memory_write(m, 0x3000, data, 8)); // ROM: dropped
    assert_true(memory_read(m, 0x3000, back, 8));
    assert_memory_equal(back, "firmware", 8);
    memory_destroy(m);
}

static gpa_t code_gpa;
static int code_calls, change_calls;
static void on_code(void *opaque, void *writer, gpa_t gpa, uint64_t size)
{
    code_gpa = gpa;
    code_calls++;
}
static void on_change(void *opaque, gpa_t gpa, uint64_t size)
{
    change_calls++;
}

static void stores_to_code_are_reported(void **state)
{
    struct memory *m = memory_create(NULL);
    struct memory_listener listener = {.changed = on_change, .code_written = on_code};
    struct memory_page page;

    memory_add_ram(m, "ram", 0, 0x4000, NULL);
    memory_add_listener(m, &listener);
    memory_code_mark(m, 0x1000);
    code_calls = 0;
    memory_write(m, 0x2000, "x", 1);
    assert_int_equal(code_calls, 0);
    memory_write(m, 0x1234, "x", 1);
    assert_int_equal(code_calls, 1);
    assert_int_equal(code_gpa, 0x1234);
    assert_true(memory_page(m, 0x1000, &page));
    assert_int_equal(*page.flags, PAGE_FLAG_CODE | PAGE_FLAG_DIRTY);
    memory_code_unmark(m, 0x1000);
    assert_int_equal(*page.flags, PAGE_FLAGS_PLAIN);
    memory_write(m, 0x1234, "x", 1);
    assert_int_equal(code_calls, 1);
    memory_destroy(m);
}

static void a20_wraps_at_one_mebibyte(void **state)
{
    struct memory *m = memory_create(NULL);
    struct memory_listener listener = {.changed = on_change, .code_written = on_code};
    struct memory_page low, high;

    memory_add_ram(m, "ram", 0, 0x200000, NULL);
    memory_add_listener(m, &listener);
    change_calls = 0;
    memory_set_a20(m, false);
    memory_set_a20(m, false);
    assert_int_equal(change_calls, 1);
    assert_true(memory_page(m, 0x1000, &low) && memory_page(m, 0x101000, &high));
    assert_ptr_equal(low.host, high.host);
    memory_set_a20(m, true);
    assert_true(memory_page(m, 0x101000, &high));
    assert_ptr_not_equal(low.host, high.host);
    memory_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_do_not_overlap),     cmocka_unit_test(wide_accesses_are_split),
        cmocka_unit_test(copies_are_all_or_nothing), cmocka_unit_test(stores_to_code_are_reported),
        cmocka_unit_test(a20_wraps_at_one_mebibyte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
