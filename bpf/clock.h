/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Two clocks, whose times are never compared with each other. The precise clock is CLOCK_MONOTONIC. It is read only
 * where an RTT sample starts or ends: a read takes 45 ns on the machine of docs/performance.md. The coarse clock counts
 * ticks (jiffies) since some time before boot. It costs one load from memory (bpf_ktime_get_coarse_ns() takes 20 ns)
 * and is precise enough for timeouts.
 */
#pragma once

#include "compiler.h"

static __always_inline u64 packet_time(struct __sk_buff *skb)
{
    /* The verifier accepts accesses only through the context pointer itself. Without the barrier the compiler computes
     * the address of the field once for several reads. */
    barrier_var(skb);
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
