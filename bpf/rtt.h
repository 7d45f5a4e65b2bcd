/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Records the RTTs that a packet completes in the histogram of the subnet of the packet's source, and reports the RTTs
 * as events.
 */
#pragma once

#include "flow_events.h"
#include "histogram.h"

static __always_inline void record_rtt(const struct context *ctx, enum method method, u64 sent_ns)
{
    u64 rtt_ns = precise_now(ctx->skb) - sent_ns;

    if (rtt_ns > MAX_AGE_NS) {
        ctx->counters->rtt_expired++;
        return;
    }

    u32 slot = method == TRAFFIC_METHOD ? ctx->source.slot : slot_of(ctx, &ctx->source, method);

    ctx->counters->rtt_measured++;
    histogram_record(slot, rtt_ns, ctx->counters);
#if EVENTS
    report_rtt(ctx, method, rtt_ns);
#endif
}

/* The loop is not unrolled, so that the program contains the code of record_rtt() only once. */
static __always_inline void record_rtts(const struct context *ctx)
{
#pragma clang loop unroll(disable)
    for (int i = 0; i < MAX_RTTS_PER_PACKET; i++) {
        if (i < ctx->packet->rtt_count)
            record_rtt(ctx, ctx->packet->rtts[i].method, ctx->packet->rtts[i].sent_ns);
    }
}
