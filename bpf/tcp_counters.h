/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counts TCP events for the subnets of both endpoints of a flow: retransmitted segments, out-of-order segments,
 * segments with a zero window, opened flows and closed flows. Some flows end without FIN or RST. User space counts the
 * end of such a flow when a scan of the flow table finds that the flow is no longer active
 * (otel_epping/kernel/read/flow_table.py).
 */
#pragma once

#include "tcp_method_choice.h"

/* Increments a counter of the source's subnet, and a counter of the destination's subnet. */
#define COUNT_BOTH(field, of_source, of_destination)         \
    do {                                                     \
        __sync_fetch_and_add(&from->field[of_source], 1);    \
        __sync_fetch_and_add(&to->field[of_destination], 1); \
    } while (0)

/*
 * The difference is signed, because last_ns may be later than now_ns: another CPU may have read a later tick of the
 * clock, or the packets of a capture may not be in order.
 */
static __always_inline bool is_idle(const struct flow *flow, u64 now_ns)
{
    return (s64)(now_ns - flow->last_ns) > (s64)FLOW_IDLE_NS;
}

static __always_inline void count_tcp_events(struct context *ctx)
{
    const struct packet *packet = ctx->packet;
    struct flow *flow = ctx->flow;
    u8 flags = flags_of(ctx);
    bool is_new_syn_ack = (flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && ctx->segment == SEGMENT_OTHER;
    bool opens = is_new_syn_ack || !flow->last_ns || is_idle(flow, ctx->now_ns);

    if (flow->last_ns != ctx->now_ns) {
        flow->last_ns = ctx->now_ns;
        check_tsval_clock(ctx); /* one check per tick is enough */
    }
    /* Most segments are the next segment in sequence, and are not counted as an event. */
    if (!opens && ctx->segment < SEGMENT_RETRANSMITTED && packet->window && !(flags & (TCP_SYN | TCP_FIN | TCP_RST)))
        return;

    cold();

    /* The slots are copied, because a pointer into the context must not be passed to a helper (context.h). */
    u32 source_slot = ctx->source.slot, destination_slot = ctx->destination.slot;
    struct flow_counters *from = flow_counters.lookup(&source_slot);
    struct flow_counters *to = flow_counters.lookup(&destination_slot);

    if (!from || !to)
        return;

    if (opens) {
        enum opening how = is_new_syn_ack ? OPENED_SYN : OPENED_MIDWAY;

        flow->closed_ends = 0;
        COUNT_BOTH(opened, how, how);
    }
    if (ctx->segment == SEGMENT_RETRANSMITTED)
        COUNT_BOTH(retransmitted, 0, 1);
    else if (ctx->segment == SEGMENT_OUT_OF_ORDER)
        COUNT_BOTH(out_of_order, 0, 1);
    if (!packet->window && !(flags & (TCP_SYN | TCP_FIN | TCP_RST)))
        COUNT_BOTH(zero_window, 0, 1);

    if (flags & (TCP_FIN | TCP_RST) && flow->closed_ends != BOTH_ENDS) {
        if (flags & TCP_RST)
            flow->closed_ends = BOTH_ENDS;
        else
            flow->closed_ends |= 1ULL << ctx->source_index;
        if (flow->closed_ends == BOTH_ENDS) {
            enum closing how = flags & TCP_RST ? CLOSED_RST : CLOSED_FIN;

            COUNT_BOTH(closed, how, how);
            flow->half[0].has_sent = flow->half[1].has_sent = 0;
            mark_bidirectional(place_of_key(&flow->key), false);
        }
    }
}
