/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Method tcp_timestamp: from a segment to the first segment back that echoes its TSval as TSecr (RFC 7323 section 3).
 * This is the method of Kathie Nichols' pping and of ePPing. The rules below avoid errors that these tools or their
 * users have found.
 */
#pragma once

#include "tcp_method_choice.h"

/*
 * Updates the sender's TSval. Returns whether this segment starts a sample: it sends its TSval for the first time, and
 * the receiver must answer it.
 * - A SYN resets the sender's TSval, because a port may be reused. Its answer belongs to the handshake. If its TSval is
 *   earlier than the last one, later segments may also have overtaken it: then the sender's TSval is unknown.
 * - The first TSval of a flow that is joined midway may have been sent before: only the next one starts a sample.
 * - Only a TSval that advances is new. The same TSval was sent before; an earlier one may be retransmitted or
 * reordered.
 * - An earlier TSval after a silence of more than MAX_AGE_NS, when all samples have expired, belongs to a new
 * connection whose SYN was not seen.
 * - A pure ACK is answered only when the other application next sends, so it measures no round trip.
 */
static __always_inline bool starts_sample(const struct context *ctx)
{
    struct half_flow *sender = ctx->sender;
    const struct packet *packet = ctx->packet;
    struct __sk_buff *skb = ctx->skb;
    u8 flags = flags_of(ctx);

    if (flags & TCP_SYN || !sender->tsval_changed_ns) {
        cold();
        if (sender->timing_flags & TIMING_BY_SEQUENCE)
            return restart_timestamps(ctx, packet->payload || flags & TCP_FIN);
        abandon_pending(sender, ctx->counters);
        if (sender->tsval_changed_ns && after(sender->last_tsval, packet->tsval)) {
            sender->tsval_changed_ns = 0;
            return false;
        }
    } else {
        if (packet->tsval == sender->last_tsval)
            return false;
        if (after(packet->tsval, sender->last_tsval)) {
            sender->last_tsval = packet->tsval;
            sender->tsval_changed_ns = coarse_now(skb);
            return packet->payload || flags & TCP_FIN;
        }
        cold();
        if (coarse_now(skb) - sender->tsval_changed_ns <= MAX_AGE_NS)
            return false;
    }
    sender->last_tsval = packet->tsval;
    sender->tsval_changed_ns = coarse_now(skb);
    return false;
}

/*
 * Starts a sample: stores the TSval and its time until the echo. At most one sample starts in SAMPLE_INTERVAL_NS. A
 * sample never replaces one that still waits: on a path longer than MAX_OUTSTANDING intervals no RTT would be measured.
 */
static __always_inline void start_sample(const struct context *ctx)
{
    struct half_flow *sender = ctx->sender;
    struct outstanding *outstanding = outstanding_of_sender(ctx);
    u64 changed_ns = sender->tsval_changed_ns, now_ns;

    if (SAMPLE_INTERVAL_NS && sender->sample_started_ns && changed_ns - sender->sample_started_ns < SAMPLE_INTERVAL_NS)
        return;
    now_ns = precise_now(ctx->skb);
    for (int i = 0; i < MAX_OUTSTANDING; i++) {
        if (sender->pending & 1 << i) {
            /* Signed: the times of a capture may run backwards. */
            if ((s64)(now_ns - outstanding->sent_ns[i]) <= (s64)MAX_AGE_NS)
                continue;
            ctx->counters->rtt_expired++;
        }
        outstanding->expected[i] = ctx->packet->tsval;
        outstanding->sent_ns[i] = now_ns;
        if (!sender->pending)
            sender->echo_due = sender->next_seq;
        sender->pending |= 1 << i;
        sender->sample_started_ns = changed_ns;
        ctx->counters->rtt_begun++;
        return;
    }
    ctx->counters->rtt_not_begun++;
}

/*
 * Returns the time at which the TSval that TSecr echoes was sent, or 0. Ends this sample, so that it matches once, and
 * all earlier samples: an endpoint never echoes an earlier TSval again.
 */
static __always_inline u64 match_echo(const struct context *ctx)
{
    const struct packet *packet = ctx->packet;
    const struct outstanding *outstanding = outstanding_of_receiver(ctx);
    struct half_flow *receiver = ctx->receiver;
    u64 sent_ns = 0;
    u8 pending = receiver->pending;

    /* As a rule nothing waits, because SAMPLE_INTERVAL_NS limits the samples. */
    if (!pending)
        return 0;
    cold();
    if (!receiver->tsval_changed_ns)
        return 0;
    /* A TSecr later than all TSvals sent is no echo. */
    if (!after(packet->tsecr, receiver->last_tsval)) {
        for (int i = 0; i < MAX_OUTSTANDING; i++) {
            if (!(pending & 1 << i) || after(outstanding->expected[i], packet->tsecr))
                continue;
            /* The times of a capture may run backwards, so that the same TSval starts two samples. */
            if (outstanding->expected[i] == packet->tsecr && !sent_ns)
                sent_ns = outstanding->sent_ns[i];
            else
                ctx->counters->rtt_superseded++;
            pending &= ~(1 << i);
        }
    }
    if (pending == receiver->pending) {
        note_missing_echo(ctx);
    } else {
        receiver->pending = pending;
        receiver->echo_due = receiver->next_seq;
        receiver->timing_flags &= ~TIMING_ECHO_MISSING;
    }
    return sent_ns;
}

/*
 * TSecr is valid only with ACK (RFC 7323 section 3.2). A RST starts and ends no sample, because anybody may have sent
 * it.
 */
static __always_inline void tcp_timestamp(struct context *ctx)
{
    u8 flags = flags_of(ctx);

    if (!ctx->has_flow || !ctx->packet->has_timestamp || flags & TCP_RST)
        return;

    if (flags & TCP_ACK) {
        u64 sent_ns = match_echo(ctx);

        if (sent_ns)
            add_rtt(ctx, METHOD_TCP_TIMESTAMP, sent_ns);
    }
    if (starts_sample(ctx))
        start_sample(ctx);
}
