// SPDX-License-Identifier: Apache-2.0
// Five bodies under gravity: scalar double arithmetic with divisions and square roots.
#include "bench.h"

#define BODIES 5
struct body {
    double x[3], v[3], mass;
};

static double root(double x)
{
    double r;
    __asm__("sqrtsd %1, %0" : "=x"(r) : "x"(x));
    return r;
}

static uint64_t unit(void)
{
    struct body b[BODIES];
    uint64_t seed = 7;
    for (int i = 0; i < BODIES; i++) {
        for (int k = 0; k < 3; k++) {
            b[i].x[k] = (double)(bench_random(&seed) % 1000) / 50.0 - 10.0;
            b[i].v[k] = (double)(bench_random(&seed) % 1000) / 500.0 - 1.0;
        }
        b[i].mass = 1.0 + i;
    }
    for (int step = 0; step < 100000; step++) {
        for (int i = 0; i < BODIES; i++)
            for (int j = i + 1; j < BODIES; j++) {
                double d[3], square = 0.01;
                for (int k = 0; k < 3; k++) {
                    d[k] = b[i].x[k] - b[j].x[k];
                    square += d[k] * d[k];
                }
                double pull = 0.001 / (square * root(square));
                for (int k = 0; k < 3; k++) {
                    b[i].v[k] -= d[k] * b[j].mass * pull;
                    b[j].v[k] += d[k] * b[i].mass * pull;
                }
            }
        for (int i = 0; i < BODIES; i++)
            for (int k = 0; k < 3; k++)
                b[i].x[k] += 0.001 * b[i].v[k];
    }
    return (uint64_t)(int64_t)(b[0].x[0] * 1e9);
}

const struct program program_nbody = {.name = "nbody", .unit = unit};
