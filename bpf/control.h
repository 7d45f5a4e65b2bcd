/* SPDX-License-Identifier: GPL-2.0-only */
/* Declares the values that user space changes while the program runs. */
#pragma once

#include "direct_value.h"

struct control {
    /* User space increments the epoch when it reclaims slots, and again when it frees these slots for reuse. If a slot
     * was cached in an older epoch, the program looks the slot up again. */
    u32 epoch;
    /* Number of the current export interval. Minima and maxima are stored per interval (histogram.h). */
    u32 interval;
#if NETWORKS
    /* The trie of named networks that is in use: 0 or 1 (networks.h). */
    u32 networks;
    u32 unused;
#endif
};

BPF_ARRAY(control, struct control, 1);

static __always_inline const struct control *current_control(void)
{
    return DIRECT_ADDRESS(DIRECT_CONTROL, const struct control);
}
