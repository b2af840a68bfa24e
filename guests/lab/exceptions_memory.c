// SPDX-License-Identifier: Apache-2.0
#include "exceptions.h"
void exceptions_memory(void)
{
}
void exceptions_gates(void)
{
}
void exceptions_double(void)
{
}
