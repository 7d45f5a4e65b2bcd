/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Method tcp_sequence, where timestamps do not time an endpoint (tcp_method_choice.h): from a segment to the
 * acknowledgement of just its last byte. One segment at a time is timed in each direction, and none that follows a gap,
 * for its acknowledgement waits until the gap is filled. Whatever is sent again ends the timing (Karn's rule, RFC 6298
 * section 3): so an acknowledgement that follows duplicates, or that was selective before, is never one of a segment
 * that is timed.
 */
#pragma once

#include "tcp_method_choice.h"

/*
 * A receiver that acknowledges every second segment, and a sender that sends two for each acknowledgement: if the first
 * of a pair were timed each time, no RTT would ever come of it. So after an acknowledgement of more, one is left out.
 */
static __always_inline void time_segment(struct half_flow *sender, u32 end, struct observation *seen)
{
    struct outstanding *outstanding = outstanding_of_sender(&seen->flow);
    u64 now_ns = sender->advanced_ns;

    if (SAMPLE_INTERVAL_NS && sender->begun_ns && now_ns - sender->begun_ns < SAMPLE_INTERVAL_NS)
        return;
    if (sender->timing & TIMING_SKIPS_NEXT) {
        sender->timing &= ~TIMING_SKIPS_NEXT;
        return;
    }
    outstanding->awaited[0] = end;
    outstanding->sent_ns[0] = precise_now(seen->skb);
    sender->waiting = 1;
    sender->begun_ns = now_ns;
    seen->counters->rtt_begun++;
}

static __always_inline bool waits(struct half_flow *sender, struct observation *seen)
{
    if (!sender->waiting)
        return false;
    if ((s64)(sender->advanced_ns - sender->begun_ns) <= (s64)MAX_AGE_NS)
        return true;
    sender->waiting = 0;
    seen->counters->rtt_expired++;
    return false;
}

static __always_inline void match_acknowledgement(struct half_flow *receiver, struct observation *seen)
{
    struct outstanding *outstanding = outstanding_of_receiver(&seen->flow);

    if (!receiver->waiting || later(outstanding->awaited[0], seen->packet->ack_seq))
        return;
    receiver->waiting = 0;
    if (outstanding->awaited[0] == seen->packet->ack_seq) {
        answers(seen, METHOD_TCP_SEQUENCE, outstanding->sent_ns[0]);
    } else {
        receiver->timing |= TIMING_SKIPS_NEXT;
        receiver->begun_ns = 0;
        seen->counters->rtt_superseded++;
    }
}

static __always_inline void tcp_sequence(struct observation *seen, bool plain)
{
    const struct packet *packet = seen->packet;
    struct half_flow *sender = seen->flow.sender, *receiver = seen->flow.receiver;
    u8 flags = flags_of(packet, plain);

    if (!seen->has_flow || flags & TCP_RST)
        return;
    if (flags & TCP_ACK) {
        if (!receiver->edge_ns) {
            match_acknowledgement(receiver, seen);
            if (packet->has_timestamp) {
                rare();
                hand_back(receiver, packet, coarse_now(seen->skb));
            }
        } else if (!packet->has_timestamp) {
            rare();
            if (receiver->waiting)
                miss_echo(receiver, packet, seen->counters);
        }
    }
    if (sender->edge_ns) {
        if (packet->has_timestamp || seen->segment != SEGMENT_NEXT)
            return;
        hand_over(sender, FAULT_MISSING, seen->counters);
    }
    if (seen->segment == SEGMENT_RETRANSMITTED || seen->segment == SEGMENT_OUT_OF_ORDER) {
        seen->counters->rtt_repeated += sender->waiting;
        sender->waiting = 0;
    } else if (seen->segment == SEGMENT_NEXT && !waits(sender, seen)) {
        time_segment(sender, sender->next_seq, seen);
    }
}
