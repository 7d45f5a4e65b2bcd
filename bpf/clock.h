/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Two clocks: the precise one costs a read of the hardware counter and is asked only where an RTT begins or ends; the
 * coarse one, as old as the last timer tick, is enough to decide that nothing is to be done.
 */
#pragma once

#include "config.h"

static __always_inline u64 packet_time(struct __sk_buff *skb)
{
    /* Or the compiler shares one address among several readings, and the verifier wants none but the context's own. */
    asm volatile("" : "+r"(skb));
    return skb->tstamp;
}

static __always_inline u64 precise_now(struct __sk_buff *skb)
{
    return PACKET_CLOCK ? packet_time(skb) : bpf_ktime_get_ns();
}

static __always_inline u64 coarse_now(struct __sk_buff *skb)
{
    return PACKET_CLOCK ? packet_time(skb) : bpf_ktime_get_coarse_ns();
}
