// SPDX-License-Identifier: Apache-2.0
// An interrupt line: all a device knows of interrupts. Called with the board lock held.
#pragma once

#include "base/types.h"

struct irq_line {
    void (*set)(void *opaque, int number, bool level);
    void *opaque;
    int number;
};

static inline void irq_set(const struct irq_line *line, bool level)
{
    if (line->set)
        line->set(line->opaque, line->number, level);
}
