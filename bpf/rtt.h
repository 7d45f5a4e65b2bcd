/* SPDX-License-Identifier: GPL-2.0-only */
/* Where the RTTs that a packet ends go: into the histogram of the subnet that it comes from, and to whoever watches. */
#pragma once

#include "histogram.h"
#include "context.h"
#include "flow_events.h"

/* Counts an RTT that this packet ends for the subnet it comes from. */
static __always_inline void record_rtt(struct observation *seen, enum method method, u64 asked_ns)
{
    u64 rtt_ns = precise_now(seen->skb) - asked_ns;

    if (rtt_ns > MAX_AGE_NS) {
        seen->counters->rtt_expired++;
        return;
    }

    u32 slot = method == TRAFFIC_METHOD ? seen->source_slot
                                        : slot_of(seen->packet->source, seen->packet->family, seen->interface,
                                                  seen->source_side, method, seen->skb, seen->counters);

    seen->counters->rtt_measured++;
    histogram_record(slot, rtt_ns, seen->counters);
#if EVENTS
    report_rtt(seen, method, rtt_ns);
#endif
}

/* All RTTs that this packet ends, in a loop that is one for the verifier, too. */
static __always_inline void record_rtts(struct observation *seen)
{
#pragma clang loop unroll(disable)
    for (int i = 0; i < RTTS_OF_A_PACKET; i++) {
        if (i < seen->packet->answers)
            record_rtt(seen, seen->packet->ended[i].method, seen->packet->ended[i].asked_ns);
    }
}
