/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Method tcp_sequence measures the time from a segment to the acknowledgement whose number is exactly the end of the
 * segment. The method is used for endpoints whose timestamps do not work (tcp_method_choice.h). In each direction of a
 * flow, at most one segment at a time waits for its acknowledgement. A segment after a gap does not start an RTT
 * sample, because the receiver acknowledges the segment only after the gap is filled. If a retransmitted or
 * out-of-order segment arrives, the program drops the sample (Karn's rule, RFC 6298 section 3). So the acknowledgement
 * that ends a series of duplicate or selective acknowledgements does not complete a sample, because a retransmitted or
 * out-of-order segment arrives before this acknowledgement.
 */
#pragma once

#include "tcp_method_choice.h"

/*
 * Starts an RTT sample. If the acknowledgement that ended the last sample also acknowledged later segments, the
 * function first skips one segment. If the function did not skip a segment, the RTT of some flows would never be
 * measured. For example, the receiver may acknowledge every second segment, and the sender may send two segments after
 * each acknowledgement. In this example, each sample would start with the first of two segments, and would end without
 * an RTT when the receiver acknowledges both segments together.
 */
static __always_inline void start_segment_sample(const struct context *ctx)
{
    struct half_flow *sender = ctx->sender;
    struct outstanding *outstanding = outstanding_of_sender(ctx);
    u64 now_ns = sender->next_seq_changed_ns;

    if (SAMPLE_INTERVAL_NS && sender->sample_started_ns && now_ns - sender->sample_started_ns < SAMPLE_INTERVAL_NS)
        return;
    if (sender->timing_flags & TIMING_SKIP_NEXT) {
        sender->timing_flags &= ~TIMING_SKIP_NEXT;
        return;
    }
    outstanding->expected[0] = sender->next_seq;
    outstanding->sent_ns[0] = precise_now(ctx->skb);
    sender->pending = 1;
    sender->sample_started_ns = now_ns;
    ctx->counters->rtt_begun++;
}

/*
 * Returns whether a segment of the sender waits for its acknowledgement. If the segment has waited longer than
 * MAX_AGE_NS, the RTT sample of the segment expires.
 */
static __always_inline bool has_pending_segment(const struct context *ctx)
{
    struct half_flow *sender = ctx->sender;

    if (!sender->pending)
        return false;
    if ((s64)(sender->next_seq_changed_ns - sender->sample_started_ns) <= (s64)MAX_AGE_NS)
        return true;
    sender->pending = 0;
    ctx->counters->rtt_expired++;
    return false;
}

static __always_inline void match_acknowledgement(struct context *ctx)
{
    struct half_flow *receiver = ctx->receiver;
    struct outstanding *outstanding = outstanding_of_receiver(ctx);

    if (!receiver->pending || after(outstanding->expected[0], ctx->packet->ack_seq))
        return;
    receiver->pending = 0;
    if (outstanding->expected[0] == ctx->packet->ack_seq) {
        add_rtt(ctx, METHOD_TCP_SEQUENCE, outstanding->sent_ns[0]);
    } else {
        receiver->timing_flags |= TIMING_SKIP_NEXT;
        receiver->sample_started_ns = 0;
        ctx->counters->rtt_superseded++;
    }
}

static __always_inline void tcp_sequence(struct context *ctx)
{
    const struct packet *packet = ctx->packet;
    struct half_flow *sender = ctx->sender, *receiver = ctx->receiver;
    u8 flags = flags_of(ctx);

    if (!ctx->has_flow || flags & TCP_RST)
        return;
    if (flags & TCP_ACK) {
        if (!receiver->tsval_changed_ns) {
            match_acknowledgement(ctx);
            if (packet->has_timestamp) {
                cold();
                restart_after_echo(ctx);
            }
        } else if (!packet->has_timestamp) {
            cold();
            if (receiver->pending)
                note_missing_echo(ctx);
        }
    }
    if (sender->tsval_changed_ns) {
        if (packet->has_timestamp || ctx->segment != SEGMENT_NEXT)
            return;
        switch_to_sequence(sender, FAULT_MISSING, ctx->counters);
    }
    if (ctx->segment == SEGMENT_RETRANSMITTED || ctx->segment == SEGMENT_OUT_OF_ORDER) {
        ctx->counters->rtt_repeated += sender->pending;
        sender->pending = 0;
    } else if (ctx->segment == SEGMENT_NEXT && !has_pending_segment(ctx)) {
        start_segment_sample(ctx);
    }
}
