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
/* So many duplicate acknowledgements have what is missing sent again (RFC 5681 3.2 says 3; Wireshark lets one be lost).
 */
#define FAST_RETRANSMIT_DUPLICATES 2

/* That are counted, in 8 bits. */
#define MOST_DUPLICATES 255

/* As half_flow remembers it. */
#define WINDOW_ZERO 1

static __always_inline u32 window_of(const struct packet *packet)
{
    return packet->window + WINDOW_ZERO;
}

enum segment { SEGMENT_EMPTY, SEGMENT_NEXT, SEGMENT_OTHER, SEGMENT_RETRANSMITTED, SEGMENT_OUT_OF_ORDER };

static __always_inline void advance(struct half_flow *sender, u32 end, u64 now_ns)
{
    sender->next_seq = end;
    sender->advanced_ns = now_ns;
}

/* Whether the other endpoint has all of a segment that ends here. */
static __always_inline bool is_acknowledged(const struct flow_view *view, u32 end)
{
    return view->receiver->acked && !later(end, view->receiver->acked);
}

/* Whether duplicate acknowledgements ask for the segment that begins here. */
static __always_inline bool is_asked_for(const struct flow_view *view, u32 begin)
{
    return view->receiver->duplicates >= FAST_RETRANSMIT_DUPLICATES && begin == view->receiver->acked;
}

/* Of a segment that begins before the greatest sequence number sent, and that was not acknowledged yet. */
static __always_inline enum segment repeated_or_overtaken(const struct flow_view *view, u32 begin, u32 end, u64 now_ns)
{
    u64 overtaken_ns = view->flow->handshake_ns ?: OVERTAKEN_NS;

    if (is_asked_for(view, begin) || end == view->sender->next_seq ||
        now_ns - view->sender->advanced_ns >= overtaken_ns)
        return SEGMENT_RETRANSMITTED;
    return SEGMENT_OUT_OF_ORDER;
}

static __always_inline enum segment place_segment(const struct flow_view *view, const struct packet *packet, bool plain,
                                                  u64 now_ns)
{
    struct half_flow *sender = view->sender;
    u16 flags = flags_of(packet, plain);
    u32 begin = packet->seq, end = begin + packet->payload + !!(flags & TCP_SYN) + !!(flags & TCP_FIN);
    enum segment segment;

    if (end == begin) {
        /* It says where its sender goes on; if that is ahead, something is missing. */
        if (!sender->advanced_ns || later(begin, sender->next_seq)) {
            rare();
            advance(sender, begin, now_ns);
        }
        return SEGMENT_EMPTY;
    }
    if (!sender->advanced_ns || (flags & TCP_SYN && begin + 1 != sender->first_seq)) {
        rare();
        advance(sender, end, now_ns);
        return SEGMENT_OTHER; /* what came before it is unknown */
    }
    if (later(begin, sender->next_seq)) {
        rare();
        advance(sender, end, now_ns);
        return SEGMENT_OTHER; /* something before it is missing */
    }
    if (begin + 1 == sender->next_seq && packet->payload <= 1 && !(flags & (TCP_SYN | TCP_FIN))) {
        rare();
        return SEGMENT_OTHER; /* a keep-alive (RFC 1122 4.2.3.6) */
    }
    if (is_acknowledged(view, end)) {
        rare();
        segment = SEGMENT_RETRANSMITTED;
    } else if (begin == sender->next_seq) {
        if (packet->payload == 1 && view->receiver->window == WINDOW_ZERO)
            return SEGMENT_OTHER; /* a zero window probe, which nobody needs to take in */
        segment = flags & TCP_IS_CUT ? SEGMENT_OTHER : SEGMENT_NEXT; /* what acknowledges a cut one is unknown */
    } else if (begin + 1 == sender->next_seq && later(end, sender->next_seq) && !(flags & TCP_SYN)) {
        rare();
        segment = SEGMENT_OTHER; /* goes on behind what may have been a probe */
    } else {
        rare();
        segment = repeated_or_overtaken(view, begin, end, now_ns);
    }
    if (later(end, sender->next_seq))
        advance(sender, end, now_ns);
    return segment;
}

/* What this segment says of the other direction: how much of it arrived, and whether that was said before. */
static __always_inline void follow_acknowledgements(const struct flow_view *view, const struct packet *packet,
                                                    bool plain, u64 now_ns)
{
    struct half_flow *sender = view->sender;
    u8 flags = flags_of(packet, plain);
    bool is_bare = !packet->payload && !(flags & (TCP_SYN | TCP_FIN));

    if (!(flags & TCP_ACK))
        return;
    if (!view->receiver->advanced_ns) {
        rare();
        advance(view->receiver, packet->ack_seq, now_ns); /* never heard of: it goes on there, at the earliest */
    }
    if (!sender->acked || flags & TCP_SYN || later(packet->ack_seq, sender->acked)) {
        sender->acked = packet->ack_seq;
        sender->duplicates = 0;
    } else if (is_bare && packet->ack_seq == sender->acked && window_of(packet) == sender->window &&
               sender->duplicates < MOST_DUPLICATES) {
        sender->duplicates++;
    }
}

/* Remembers what this segment says, and tells what it is. A RST may be anybody's, so it says nothing. */
static __always_inline enum segment follow_sequence(const struct flow_view *view, struct packet *packet, bool plain,
                                                    u64 now_ns)
{
    u8 flags = flags_of(packet, plain);

    if (flags & TCP_RST)
        return SEGMENT_EMPTY;

    enum segment segment = place_segment(view, packet, plain, now_ns);

    /* One way on for the verifier, whatever the segment is: a quarter of its work. */
    segment = plain ? opaque(segment) : forget(packet, segment);

    follow_acknowledgements(view, packet, plain, now_ns);
    if (view->sender->window != window_of(packet))
        view->sender->window = window_of(packet);
    /* A SYN begins no flow, but the SYN-ACK says where its sender goes on. */
    if ((flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && segment == SEGMENT_OTHER) {
        advance(view->receiver, packet->ack_seq, now_ns);
        view->receiver->acked = 0;
        view->receiver->first_seq = packet->ack_seq;
    }
    /* The same SYN may come again, however late: with it, nothing begins. */
    if (flags & TCP_SYN)
        view->sender->first_seq = packet->seq + 1;
    return segment;
}
