// SPDX-License-Identifier: Apache-2.0
// Segmentation by the manual: what may be loaded where, and what a loaded segment then allows. Each part is a
// table over all descriptor types, privilege levels and so on, and a model of the manual's rules.
#include "segments.h"

int main(void)
{
    rings_setup();
    segments_load();
    segments_query();
    segments_far();
    segments_limit();
#if IS_LONG
    segments_long();
#endif
    return 0;
}
