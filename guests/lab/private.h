// SPDX-License-Identifier: Apache-2.0
// Between the framework's own files.
#pragma once

#include "lab.h"

extern u32 lab_ended;
extern char lab_end[];    // of the image
extern bool lab_skipping; // the current trial was skipped: its checks do not count
extern const char *lab_section_name;
