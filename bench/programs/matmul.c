// SPDX-License-Identifier: Apache-2.0
// Product of two 256 x 256 matrices of doubles, vectorised: with SSE2, and with AVX2 and FMA where the
// processor has them.
#include "bench.h"

#define N 256
static double (*a)[N], (*b)[N], (*c)[N];

static void prepare(void)
{
    uint64_t seed = 5;
    a = bench_alloc(sizeof(double[N][N]));
    b = bench_alloc(sizeof(double[N][N]));
    c = bench_alloc(sizeof(double[N][N]));
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (double)(bench_random(&seed) & 0xff);
            b[i][j] = (double)(bench_random(&seed) & 0xff);
        }
}

#ifdef __clang__
#define VECTORISED // at -O2 already
#else
#define VECTORISED __attribute__((optimize("O3")))
#endif

// The same body for both, so that only the instruction set differs.
#define BODY                                    \
    for (int i = 0; i < N; i++) {               \
        double *restrict row = c[i];            \
        for (int j = 0; j < N; j++)             \
            row[j] = 0;                         \
        for (int k = 0; k < N; k++) {           \
            const double *restrict from = b[k]; \
            double factor = a[i][k];            \
            for (int j = 0; j < N; j++)         \
                row[j] += factor * from[j];     \
        }                                       \
    }                                           \
    return (uint64_t)c[N / 3][N / 2];

VECTORISED static uint64_t unit_sse2(void){BODY}

VECTORISED __attribute__((target("avx2,fma"))) static uint64_t unit_avx2(void)
{
    BODY
}

static int has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

const struct program program_matmul = {.name = "matmul", .prepare = prepare, .unit = unit_sse2};
const struct program program_matmul_avx2 = {
    .name = "matmul_avx2", .usable = has_avx2, .prepare = prepare, .unit = unit_avx2};
