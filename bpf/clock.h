/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Defines the two clocks of the program. The program never compares a time of one clock with a time of the other clock.
 * The precise clock is CLOCK_MONOTONIC. The program reads this clock only where an RTT sample starts or ends, because a
 * read takes 45 ns on the machine that docs/performance.md describes. The coarse clock counts the ticks of the kernel's
 * timer (jiffies). The coarse clock starts at an arbitrary time before boot. To read the coarse clock, the program
 * needs only one load from memory. The helper bpf_ktime_get_coarse_ns() reads a similar clock, but a call takes 20 ns.
 * The coarse clock is precise enough for timeouts.
 */
#pragma once

#include "compiler.h"

static __always_inline u64 packet_time(struct __sk_buff *skb)
{
    /* The verifier accepts a load of a context field only if the load uses the context pointer itself. Without the
     * barrier, the compiler would compute the address of the field once and use the address for several reads. */
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
