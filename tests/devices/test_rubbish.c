// SPDX-License-Identifier: Apache-2.0
// A short run of the chipset's fuzz target on pseudo-random input, so that every build has tried it.
#include "device_bench.h"

#define RUNS 300
#define INPUT_SIZE 16000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void devices_survive_rubbish(void **state)
{
    static uint8_t input[INPUT_SIZE];
    uint64_t x = 0x9E3779B97F4A7C15;

    for (unsigned run = 0; run < RUNS; run++) {
        for (unsigned i = 0; i < INPUT_SIZE; i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            input[i] = (uint8_t)(x >> 32);
        }
        LLVMFuzzerTestOneInput(input, sizeof(input));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(devices_survive_rubbish)};
    return cmocka_run_group_tests_name("rubbish", tests, NULL, NULL);
}
