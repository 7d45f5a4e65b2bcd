/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How TCP flows behave, counted for the subnets of both their ends: what is sent again or overtaken, windows that
 * close, flows that open and end. A flow that ends in silence is one that user space doesn't find active any more
 * (otel_epping/kernel/flows.py).
 */
#pragma once

#include "tcp_method_choice.h"

/* Counts one for the subnet that sends, and one for the subnet that it is sent to. */
#define COUNT_BOTH(field, of_sender, of_receiver)         \
    do {                                                  \
        __sync_fetch_and_add(&from->field[of_sender], 1); \
        __sync_fetch_and_add(&to->field[of_receiver], 1); \
    } while (0)

/* Signed: another CPU may have seen a later tick of the clock, and captures aren't always in the order of time. */
static __always_inline bool is_idle(const struct flow *flow, u64 now_ns)
{
    return (s64)(now_ns - flow->last_ns) > (s64)FLOW_IDLE_NS;
}

static __always_inline void count_conduct(struct observation *seen, u32 destination_slot, bool plain, u64 now_ns)
{
    const struct packet *packet = seen->packet;
    struct flow *flow = seen->flow.flow;
    u8 flags = flags_of(packet, plain);
    bool is_new_syn_ack = (flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && seen->segment == SEGMENT_OTHER;
    bool opens = is_new_syn_ack || !flow->last_ns || is_idle(flow, now_ns);

    if (flow->last_ns != now_ns) {
        flow->last_ns = now_ns;
        check_clock(seen); /* once a tick is enough */
    }
    /* Most segments are nothing but the next. */
    if (!opens && seen->segment < SEGMENT_RETRANSMITTED && packet->window && !(flags & (TCP_SYN | TCP_FIN | TCP_RST)))
        return;

    rare();

    /* A helper is given no pointer into an observation, or the compiler would keep all of it in memory. */
    u32 source_slot = seen->source_slot;
    struct flow_counters *from = flow_counters.lookup(&source_slot);
    struct flow_counters *to = flow_counters.lookup(&destination_slot);

    if (!from || !to)
        return;

    if (opens) {
        enum opening how = is_new_syn_ack ? OPENED_SYN : OPENED_MIDWAY;

        flow->state = 0;
        COUNT_BOTH(opened, how, how);
    }
    if (seen->segment == SEGMENT_RETRANSMITTED)
        COUNT_BOTH(retransmitted, 0, 1);
    else if (seen->segment == SEGMENT_OUT_OF_ORDER)
        COUNT_BOTH(out_of_order, 0, 1);
    if (!packet->window && !(flags & (TCP_SYN | TCP_FIN | TCP_RST)))
        COUNT_BOTH(zero_window, 0, 1);

    if (flags & (TCP_FIN | TCP_RST) && flow->state != FLOW_CLOSED) {
        if (flags & TCP_RST)
            flow->state = FLOW_CLOSED;
        else
            flow->state |= 1ULL << seen->flow.source;
        if (flow->state == FLOW_CLOSED) {
            enum closing how = flags & TCP_RST ? CLOSED_RST : CLOSED_FIN;

            COUNT_BOTH(closed, how, how);
            flow->half[0].heard = flow->half[1].heard = 0;
            mark_answered(place_of(&flow->key), false);
        }
    }
}
