// SPDX-License-Identifier: Apache-2.0
// Byte strings to decode: encodings of a given form, and random strings that decode deep.
#pragma once

#include "compare.h"

uint64_t random_next(uint64_t *state);
// An encoding of `form` with random registers, addressing, prefixes and immediates. Most of them
// are valid in the mode s->code; some hit a rule that makes them #UD. Fills all 15 bytes.
void generate_form(struct sample *s, const struct x86_form *form, uint64_t *rng);
// Random prefixes, opcode map and opcode, then random bytes.
void generate_random(struct sample *s, uint64_t *rng);
