/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Two clocks. The program never compares a time of one clock with a time of the other. The precise clock is
 * CLOCK_MONOTONIC. It is read only where an RTT sample starts or ends, because a read takes 45 ns on the machine that
 * docs/performance.md describes. The coarse clock counts the ticks of the kernel's timer (jiffies) since some time
 * before boot. A read costs one load from memory, while bpf_ktime_get_coarse_ns() takes 20 ns. This clock is precise
 * enough for timeouts.
 */
#pragma once

#include "compiler.h"

static __always_inline u64 packet_time(struct __sk_buff *skb)
{
    /* The verifier accepts a read of a field only through the context pointer itself. Without the barrier the compiler
     * would compute the address of the field once and use this address for several reads. */
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
