/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Method tcp_timestamp measures the time from a segment with a new TSval to the first segment in the other direction
 * whose TSecr is this TSval (RFC 7323 section 3). Kathie Nichols' pping and ePPing use the same method. The rules below
 * avoid errors that the authors or the users of pping and ePPing have found.
 */
#pragma once

#include "tcp_method_choice.h"

/*
 * Updates the sender's TSval. Returns whether this segment starts an RTT sample. A segment starts a sample if no
 * earlier segment had the same TSval, and if the receiver must acknowledge the segment.
 * - A SYN resets the sender's TSval, because a port may be reused. The method tcp_handshake measures the RTT of the
 *   SYN. If the TSval of the SYN is earlier than the last TSval, either the port is reused or later segments have
 *   overtaken the SYN. In both cases, the sender's TSval is unknown.
 * - If the program has not seen the beginning of a flow, unseen segments may have the same TSval as the first segment
 *   that the program sees. So a sample starts only with the next TSval.
 * - Only a TSval that is later than the last TSval is new. If a TSval is equal to the last TSval, an earlier segment
 *   had the same TSval. If a TSval is earlier than the last TSval, the segment may be retransmitted or reordered.
 * - If an earlier TSval arrives more than MAX_AGE_NS after the last new TSval, all samples have expired. The TSval then
 *   belongs to a new connection whose SYN the program has not seen.
 * - A pure ACK does not start a sample, because the other endpoint sends its next segment only when its application
 *   sends data again.
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
 * Starts an RTT sample: stores the TSval and the send time of the segment until the echo arrives. At most one sample
 * starts in SAMPLE_INTERVAL_NS. A new sample never replaces a sample that still waits for an echo. If new samples
 * replaced waiting samples, the program would never measure an RTT longer than MAX_OUTSTANDING * SAMPLE_INTERVAL_NS.
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
            /* The difference is signed, because the times of a capture may run backwards. */
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
 * Returns the time at which the echoed TSval was sent, or 0 if no RTT sample matches. Ends the sample of this TSval, so
 * that the sample matches only once. Also ends all samples with earlier TSvals, because an endpoint never echoes an
 * earlier TSval again.
 */
static __always_inline u64 match_echo(const struct context *ctx)
{
    const struct packet *packet = ctx->packet;
    const struct outstanding *outstanding = outstanding_of_receiver(ctx);
    struct half_flow *receiver = ctx->receiver;
    u64 sent_ns = 0;
    u8 pending = receiver->pending;

    /* Usually no sample waits for an echo, because SAMPLE_INTERVAL_NS limits the number of samples. */
    if (!pending)
        return 0;
    cold();
    if (!receiver->tsval_changed_ns)
        return 0;
    /* A TSecr is not an echo if it is later than all TSvals that the receiver has sent. */
    if (!after(packet->tsecr, receiver->last_tsval)) {
        for (int i = 0; i < MAX_OUTSTANDING; i++) {
            if (!(pending & 1 << i) || after(outstanding->expected[i], packet->tsecr))
                continue;
            /* The times of a capture may run backwards, so one TSval may have started two samples. */
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
 * TSecr is valid only if the segment has the flag ACK (RFC 7323 section 3.2). A RST does not start or complete an RTT
 * sample, because an attacker may have sent the RST.
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
