/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Two clocks, which are never compared with each other. The precise one, CLOCK_MONOTONIC, is read only where an RTT
 * begins or ends (45 ns here). The coarse one counts ticks since some time before boot; it costs a load from memory
 * (bpf_ktime_get_coarse_ns() costs 20 ns), and is enough to tell that something is long ago.
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
    return PACKET_CLOCK ? packet_time(skb) : bpf_jiffies64() * TICK_NS;
}
