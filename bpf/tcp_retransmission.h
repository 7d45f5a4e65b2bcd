/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Classifies a segment by its sequence number: next, retransmitted, or out of order. The program keeps only the
 * greatest sequence number of each endpoint, so the classification cannot be exact. The rules are the same as in
 * Wireshark's TCP analysis (packet-tcp.c, tcp_analyze_sequence_number()).
 */
#pragma once

#include "flow.h"

/*
 * If a segment arrives less than one RTT after a segment with a greater sequence number, the later segment counts as
 * out of order, not as retransmitted. OUT_OF_ORDER_NS replaces the RTT if the flow's RTT is unknown.
 */
#define OUT_OF_ORDER_NS 3000000ULL
/*
 * After this number of duplicate acknowledgements, a retransmission counts as a fast retransmission. A sender waits for
 * three duplicate acknowledgements (RFC 5681 section 3.2). Like Wireshark, the program requires only two, because it
 * may not have seen one of the three acknowledgements.
 */
#define FAST_RETRANSMIT_DUP_ACKS 2

#define MAX_DUP_ACKS 255 /* half_flow.dup_acks has 8 bits */

/* The value of half_flow.window for a window of 0. If half_flow.window is 0, no window was seen yet. */
#define WINDOW_ZERO 1

static __always_inline u32 window_of(const struct packet *packet)
{
    return packet->window + WINDOW_ZERO;
}

enum segment { SEGMENT_EMPTY, SEGMENT_NEXT, SEGMENT_OTHER, SEGMENT_RETRANSMITTED, SEGMENT_OUT_OF_ORDER };

static __always_inline void advance(struct half_flow *sender, u32 end, u64 now_ns)
{
    sender->next_seq = end;
    sender->next_seq_changed_ns = now_ns;
}

/* Returns whether the other endpoint has acknowledged the whole segment that ends at `end`. */
static __always_inline bool is_acknowledged(const struct context *ctx, u32 end)
{
    return ctx->receiver->acked && !after(end, ctx->receiver->acked);
}

/* Returns whether duplicate acknowledgements request the segment that begins at `begin`. */
static __always_inline bool is_requested_by_dup_acks(const struct context *ctx, u32 begin)
{
    return ctx->receiver->dup_acks >= FAST_RETRANSMIT_DUP_ACKS && begin == ctx->receiver->acked;
}

/* Classifies a segment that is not acknowledged yet, and whose sequence number is less than next_seq. */
static __always_inline enum segment retransmitted_or_out_of_order(const struct context *ctx, u32 begin, u32 end)
{
    u64 out_of_order_ns = ctx->flow->handshake_ns ?: OUT_OF_ORDER_NS;

    if (is_requested_by_dup_acks(ctx, begin) || end == ctx->sender->next_seq ||
        ctx->now_ns - ctx->sender->next_seq_changed_ns >= out_of_order_ns)
        return SEGMENT_RETRANSMITTED;
    return SEGMENT_OUT_OF_ORDER;
}

static __always_inline enum segment classify_segment(const struct context *ctx)
{
    const struct packet *packet = ctx->packet;
    struct half_flow *sender = ctx->sender;
    u16 flags = flags_of(ctx);
    u32 begin = packet->seq, end = begin + packet->payload + !!(flags & TCP_SYN) + !!(flags & TCP_FIN);
    enum segment segment;

    if (end == begin) {
        /* The sequence number of an empty segment is the number at which the sender continues. If this number is after
         * next_seq, a segment is missing. */
        if (!sender->next_seq_changed_ns || after(begin, sender->next_seq)) {
            cold();
            advance(sender, begin, ctx->now_ns);
        }
        return SEGMENT_EMPTY;
    }
    if (!sender->next_seq_changed_ns || (flags & TCP_SYN && begin + 1 != sender->first_seq)) {
        cold();
        advance(sender, end, ctx->now_ns);
        return SEGMENT_OTHER; /* the segments before this segment are unknown */
    }
    if (after(begin, sender->next_seq)) {
        cold();
        advance(sender, end, ctx->now_ns);
        return SEGMENT_OTHER; /* a segment before this segment is missing */
    }
    if (begin + 1 == sender->next_seq && packet->payload <= 1 && !(flags & (TCP_SYN | TCP_FIN))) {
        cold();
        return SEGMENT_OTHER; /* a keep-alive (RFC 1122 4.2.3.6) */
    }
    if (is_acknowledged(ctx, end)) {
        cold();
        segment = SEGMENT_RETRANSMITTED;
    } else if (begin == sender->next_seq) {
        if (packet->payload == 1 && ctx->receiver->window == WINDOW_ZERO)
            return SEGMENT_OTHER; /* a zero window probe, which the receiver may discard */
        segment = flags & TCP_IS_CUT ? SEGMENT_OTHER : SEGMENT_NEXT; /* a cut segment has an unknown end */
    } else if (begin + 1 == sender->next_seq && after(end, sender->next_seq) && !(flags & TCP_SYN)) {
        cold();
        segment = SEGMENT_OTHER; /* the first byte of this segment may be the byte of an earlier window probe */
    } else {
        cold();
        segment = retransmitted_or_out_of_order(ctx, begin, end);
    }
    if (after(end, sender->next_seq))
        advance(sender, end, ctx->now_ns);
    return segment;
}

/*
 * Updates the greatest acknowledgement number that the sender has sent, and the number of duplicate acknowledgements.
 */
static __always_inline void track_acknowledgement(const struct context *ctx)
{
    const struct packet *packet = ctx->packet;
    struct half_flow *sender = ctx->sender;
    u8 flags = flags_of(ctx);
    bool is_bare = !packet->payload && !(flags & (TCP_SYN | TCP_FIN));

    if (!(flags & TCP_ACK))
        return;
    if (!ctx->receiver->next_seq_changed_ns) {
        cold();
        /* The program has not seen a segment of the receiver yet. The receiver's next segment begins at this
         * acknowledgement number, or later. */
        advance(ctx->receiver, packet->ack_seq, ctx->now_ns);
    }
    if (!sender->acked || flags & TCP_SYN || after(packet->ack_seq, sender->acked)) {
        sender->acked = packet->ack_seq;
        sender->dup_acks = 0;
    } else if (is_bare && packet->ack_seq == sender->acked && window_of(packet) == sender->window &&
               sender->dup_acks < MAX_DUP_ACKS) {
        sender->dup_acks++;
    }
}

/*
 * Classifies a segment and updates the state of both endpoints. A RST changes no state, because an attacker may have
 * sent the RST.
 */
static __always_inline enum segment analyze_segment(const struct context *ctx)
{
    struct packet *packet = ctx->packet;
    u8 flags = flags_of(ctx);

    if (flags & TCP_RST)
        return SEGMENT_EMPTY;

    enum segment segment = classify_segment(ctx);
    u64 number = segment;

    /* From here, the verifier follows one path for all classes of segments. The single path saves 25 % of the
     * verifier's work. */
    if (ctx->only_ack)
        barrier_var(number);
    else
        number = hide_from_verifier(packet, number);
    segment = number;

    track_acknowledgement(ctx);
    if (ctx->sender->window != window_of(packet))
        ctx->sender->window = window_of(packet);
    /* A SYN does not create a flow. But the acknowledgement number of the SYN-ACK is the next sequence number of the
     * endpoint that sent the SYN. */
    if ((flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && segment == SEGMENT_OTHER) {
        advance(ctx->receiver, packet->ack_seq, ctx->now_ns);
        ctx->receiver->acked = 0;
        ctx->receiver->first_seq = packet->ack_seq;
    }
    /* The program remembers the sequence number of the SYN, because the SYN may be repeated at any later time. A
     * repeated SYN does not start a new connection. */
    if (flags & TCP_SYN)
        ctx->sender->first_seq = packet->seq + 1;
    return segment;
}
