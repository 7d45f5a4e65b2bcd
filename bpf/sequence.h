/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a segment is to what its sender sent before: the next, sent again, or overtaken on its way. One sequence number
 * an endpoint is remembered, so this is what can be told of that; the rules are those of Wireshark's TCP analysis
 * (packet-tcp.c, tcp_analyze_sequence_number()), which everybody compares with.
 */
#pragma once

#include "flow.h"

/* What comes this soon after the segment that overtook it was not sent again, if the flow's own RTT isn't known. */
#define OVERTAKEN_NS 3000000ULL

enum segment { SEGMENT_EMPTY, SEGMENT_NEXT, SEGMENT_OTHER, SEGMENT_RETRANSMITTED, SEGMENT_OUT_OF_ORDER };

static __always_inline void advance(struct half_flow *sender, u32 end, u64 now_ns)
{
    sender->next_seq = end;
    sender->advanced_ns = now_ns;
}

/* Of a segment that begins before the greatest sequence number sent. */
static __always_inline enum segment repeated_or_overtaken(const struct flow_view *view, u32 end, u64 now_ns)
{
    u64 overtaken_ns = view->flow->handshake_ns ?: OVERTAKEN_NS;
    bool acknowledged = view->receiver->acked && !later(end, view->receiver->acked);

    if (acknowledged || end == view->sender->next_seq || now_ns - view->sender->advanced_ns >= overtaken_ns)
        return SEGMENT_RETRANSMITTED;
    return SEGMENT_OUT_OF_ORDER;
}

static __always_inline enum segment place_segment(const struct flow_view *view, const struct packet *packet, u64 now_ns)
{
    struct half_flow *sender = view->sender;
    u8 flags = packet->tcp_flags;
    u32 end = packet->seq + packet->payload + !!(flags & TCP_SYN) + !!(flags & TCP_FIN);
    enum segment segment;

    if (end == packet->seq)
        return SEGMENT_EMPTY;
    if (!sender->advanced_ns || (flags & TCP_SYN && end != sender->next_seq)) {
        advance(sender, end, now_ns);
        return SEGMENT_OTHER; /* what came before it is unknown */
    }
    if (packet->seq == sender->next_seq) {
        if (packet->payload == 1 && view->receiver->is_window_zero)
            return SEGMENT_OTHER; /* a zero window probe, which nobody needs to take in */
        advance(sender, end, now_ns);
        return SEGMENT_NEXT;
    }
    if (later(packet->seq, sender->next_seq)) {
        advance(sender, end, now_ns);
        return SEGMENT_OTHER; /* something before it is missing */
    }
    if (packet->seq + 1 == sender->next_seq && !(flags & (TCP_SYN | TCP_FIN))) {
        if (packet->payload > 1)
            advance(sender, end, now_ns);
        return SEGMENT_OTHER; /* a keep-alive (RFC 1122 4.2.3.6), or what a probe of one byte had begun */
    }
    segment = repeated_or_overtaken(view, end, now_ns);
    if (later(end, sender->next_seq))
        advance(sender, end, now_ns);
    return segment;
}

/* Remembers what this segment says, and tells what it is. A RST may be anybody's, so it says nothing. */
static __always_inline enum segment follow_sequence(const struct flow_view *view, const struct packet *packet,
                                                    u64 now_ns)
{
    struct half_flow *sender = view->sender;

    if (packet->tcp_flags & TCP_RST)
        return SEGMENT_EMPTY;
    if (packet->tcp_flags & TCP_ACK &&
        (!sender->acked || packet->tcp_flags & TCP_SYN || later(packet->ack_seq, sender->acked)))
        sender->acked = packet->ack_seq;
    if (sender->is_window_zero != packet->is_window_zero)
        sender->is_window_zero = packet->is_window_zero;

    enum segment segment = place_segment(view, packet, now_ns);

    /* A SYN begins no flow, but the SYN-ACK says where its sender goes on. */
    if ((packet->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && segment == SEGMENT_OTHER)
        advance(view->receiver, packet->ack_seq, now_ns);
    return segment;
}
