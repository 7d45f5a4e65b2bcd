/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Chooses the method that measures the RTTs of an endpoint's segments: timestamps if the endpoint's timestamps work,
 * and otherwise sequence numbers. The program chooses separately for each direction of a flow, based on the most recent
 * segments. Sequence numbers are used for an endpoint in these cases:
 * - A segment has no timestamp. RFC 7323 section 3.2 requires the timestamp option in each segment. But a middlebox may
 *   remove the option in only one direction, or only in later segments of a connection.
 * - The TSval does not change from one segment to the next.
 * - A segment is acknowledged, but the TSval of the segment is not echoed.
 *
 * Timestamps are used for the endpoint again when a segment has a new TSval. If sequence numbers are used because an
 * echo was missing, the program must also see an echo before it uses timestamps again.
 *
 * While timestamps are used for an endpoint, half_flow.tsval_changed_ns is not 0. Both methods measure correct RTTs, so
 * no RTT is wrong if the program switches to the other method too early.
 */
#pragma once

#include "tcp_retransmission.h"

#define BOTH_TCP_METHODS (1U << METHOD_TCP_TIMESTAMP | 1U << METHOD_TCP_SEQUENCE)
#define CAN_SWITCH ((METHODS & BOTH_TCP_METHODS) == BOTH_TCP_METHODS)

/* Bits of half_flow.timing_flags. */
#define TIMING_SKIP_NEXT 1    /* see start_segment_sample() in tcp_sequence.h */
#define TIMING_BY_SEQUENCE 2  /* timestamps no longer work */
#define TIMING_ECHO_MISSING 4 /* an acknowledgement did not echo the oldest pending TSval */
#define TIMING_AWAITS_ECHO 8  /* echoes work again if half_flow.echo_due or a later TSval is echoed */

/*
 * A TSval counts as unchanged only if no RTT sample was started for TSVAL_STALLED_NS. RFC 7323 section 5.4 allows
 * timestamp clocks with one tick per second. The clocks of real hosts tick at least 10 times per second. But a host may
 * send many segments with the same TSval within one tick, and a slow link may need up to TSVAL_STALLED_NS to transmit
 * all these segments.
 */
#define TSVAL_STALLED_NS 250000000LL

/* Drops the RTT samples that wait for a reply, because no reply can match these samples any more. */
static __always_inline void abandon_pending(struct half_flow *half, struct interface_counters *counters)
{
    counters->rtt_abandoned += pending_count(half);
    half->pending = 0;
}

static __always_inline void switch_to_sequence(struct half_flow *half, enum timestamp_fault fault,
                                               struct interface_counters *counters)
{
    cold();
    abandon_pending(half, counters);
    counters->timestamp_fault[fault]++;
    half->timing_flags = TIMING_BY_SEQUENCE | (fault == FAULT_UNECHOED ? TIMING_ECHO_MISSING : 0);
    half->tsval_changed_ns = 0;
}

/*
 * Switches to sequence numbers if the TSval does not change. The TSval counts as unchanged if three conditions are met:
 * a segment with the next data has no new TSval, no segment waits for a reply, and no RTT sample was started for
 * TSVAL_STALLED_NS. In this case, the sender's timestamp clock has stopped or runs backwards, or the sender sends each
 * new TSval first in a pure ACK.
 */
static __always_inline void check_tsval_clock(const struct context *ctx)
{
    struct half_flow *sender = ctx->sender;

    /* The difference is signed, because the times of a capture may run backwards. */
    if (!CAN_SWITCH || ctx->segment != SEGMENT_NEXT ||
        (s64)(sender->next_seq_changed_ns - sender->sample_started_ns) <= TSVAL_STALLED_NS)
        return;
    cold();
    if (ctx->packet->has_timestamp && sender->tsval_changed_ns && !sender->pending &&
        !after(ctx->packet->tsval, sender->last_tsval))
        switch_to_sequence(sender, FAULT_STILL, ctx->counters);
}

/*
 * Drops the RTT sample of a TSval that a retransmitted segment repeats, because an echo could answer either segment
 * (Karn's rule, RFC 6298 section 3). Usually a retransmission has a new TSval.
 */
static __always_inline void drop_retransmitted_tsval(const struct context *ctx)
{
    struct half_flow *sender = ctx->sender;
    const struct outstanding *outstanding = outstanding_of_sender(ctx);

    if (!sender->pending || !ctx->packet->has_timestamp || !sender->tsval_changed_ns)
        return;
#pragma clang loop unroll(disable)
    for (u32 i = 0; i < MAX_OUTSTANDING; i++) {
        if (!(sender->pending & 1 << i) || outstanding->expected[i] != ctx->packet->tsval)
            continue;
        sender->pending &= ~(1 << i);
        ctx->counters->rtt_repeated++;
    }
}

/* Called for a SYN. Resets the choice of the method for the sender of the SYN, because a SYN begins a connection. */
static __always_inline void reset_timing(const struct context *ctx)
{
    struct half_flow *sender = ctx->sender;

    abandon_pending(sender, ctx->counters);
    sender->timing_flags = 0;
    if (!ctx->packet->has_timestamp)
        sender->tsval_changed_ns = 0;
}

/*
 * Called for an acknowledgement that does not echo a pending TSval. Switches to sequence numbers if echoes do not work.
 * Echoes do not work if the acknowledgement has no echo, or if two acknowledgements did not echo a pending TSval. One
 * acknowledgement is not enough, because it may acknowledge several segments and echo the TSval of the earliest segment
 * (RFC 7323 section 4.3). If echoes work, the next acknowledgement echoes a later TSval. An acknowledgement that echoes
 * a TSval later than last_tsval is ignored, because the program has not seen the segment with this TSval.
 */
static __always_inline void note_missing_echo(const struct context *ctx)
{
    const struct packet *packet = ctx->packet;
    struct half_flow *receiver = ctx->receiver;

    if (!CAN_SWITCH || after(receiver->echo_due, packet->ack_seq) || after(packet->ack_seq, receiver->next_seq))
        return;
    if (packet->has_timestamp && after(packet->tsecr, receiver->last_tsval))
        return;
    if (!packet->has_timestamp || !packet->tsecr || receiver->timing_flags & TIMING_ECHO_MISSING) {
        switch_to_sequence(receiver, FAULT_UNECHOED, ctx->counters);
    } else {
        receiver->timing_flags |= TIMING_ECHO_MISSING;
        /* The second acknowledgement must cover data that is sent after the first acknowledgement. */
        receiver->echo_due = receiver->next_seq + 1;
    }
}

/*
 * Switches an endpoint back to timestamps if this segment has a new TSval that will be echoed. Returns whether the
 * segment starts an RTT sample. If echoes were missing, the program first waits for an echo: see restart_after_echo().
 */
static __always_inline bool restart_timestamps(const struct context *ctx, bool is_echoed)
{
    const struct packet *packet = ctx->packet;
    struct half_flow *sender = ctx->sender;
    bool is_new = after(packet->tsval, sender->last_tsval);
    u64 now_ns = coarse_now(ctx->skb);

    sender->last_tsval = packet->tsval;
    if (!is_new || !is_echoed)
        return false;
    if (sender->timing_flags & TIMING_ECHO_MISSING) {
        sender->echo_due = packet->tsval;
        sender->timing_flags |= TIMING_AWAITS_ECHO;
        return false;
    }
    /* The program measures the RTT of this segment. If an earlier segment waits for an acknowledgement, the program
     * drops the RTT sample of the earlier segment. */
    if (sender->pending) {
        abandon_pending(sender, ctx->counters);
        sender->sample_started_ns = 0;
    }
    sender->timing_flags = 0;
    sender->tsval_changed_ns = now_ns;
    return true;
}

/* Switches an endpoint back to timestamps if this segment echoes a TSval of the endpoint after echoes were missing. */
static __always_inline void restart_after_echo(const struct context *ctx)
{
    const struct packet *packet = ctx->packet;
    struct half_flow *receiver = ctx->receiver;
    u64 now_ns = coarse_now(ctx->skb);

    if (!(receiver->timing_flags & TIMING_AWAITS_ECHO) || receiver->pending ||
        after(receiver->echo_due, packet->tsecr) || after(packet->tsecr, receiver->last_tsval))
        return;
    receiver->timing_flags = 0;
    receiver->tsval_changed_ns = now_ns;
}
