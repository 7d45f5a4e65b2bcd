/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which method times the segments of an endpoint: timestamps while they work, and sequence numbers otherwise. It is
 * decided for each direction of a flow, by what its segments show now:
 * - A segment without a timestamp cannot be timed by it. A middlebox may strip the option from one direction, or in the
 *   middle of a connection, though RFC 7323 section 3.2 wants it in each segment.
 * - A TSval that stands still cannot be timed: it does not tell two segments apart.
 * - A TSval that is acknowledged and not echoed cannot be timed.
 * Timestamps time the endpoint again once a segment has a new TSval; and if they were not echoed, once they are.
 *
 * While timestamps time an endpoint, half_flow.edge_ns is not 0. Either method gives right RTTs, so a decision that
 * comes too early makes none wrong.
 */
#pragma once

#include "context.h"

#define BOTH_TCP_METHODS (1U << METHOD_TCP_TIMESTAMP | 1U << METHOD_TCP_SEQUENCE)
#define HANDS_OVER ((METHODS & BOTH_TCP_METHODS) == BOTH_TCP_METHODS)

/* Bits of half_flow.timing. */
#define TIMING_SKIPS_NEXT 1  /* see tcp_sequence.h */
#define TIMING_HANDED_OVER 2 /* timestamps ceased to work */
#define TIMING_UNECHOED 4    /* what waits longest was acknowledged once and not echoed; or that is why */
#define TIMING_ADVANCED 8    /* an echo of half_flow.awaited, or of a later one, shows that echoes come again */

/*
 * If no RTT was begun for longer. RFC 7323 section 5.4 lets a clock tick once a second; those in use tick 10 times a
 * second or faster. But what was sent within one tick can take this long to pass a slow link.
 */
#define STILL_NS 250000000LL

/* Nothing that waits will be answered. */
static __always_inline void abandon(struct half_flow *half, struct interface_counters *counters)
{
    counters->rtt_abandoned += waiting_of(half);
    half->waiting = 0;
}

static __always_inline void hand_over(struct half_flow *half, enum timestamp_fault fault,
                                      struct interface_counters *counters)
{
    rare();
    abandon(half, counters);
    counters->timestamp_fault[fault]++;
    half->timing = TIMING_HANDED_OVER | (fault == FAULT_UNECHOED ? TIMING_UNECHOED : 0);
    half->edge_ns = 0;
}

/*
 * Hands over if a segment that continues the data has no new TSval, nothing waits, and no RTT was begun for long. The
 * clock stands still, or goes back, or each TSval is first sent by a pure ACK.
 */
static __always_inline void check_clock(const struct observation *seen)
{
    struct half_flow *sender = seen->flow.sender;

    /* Signed: in a capture, time may go back. */
    if (!HANDS_OVER || seen->segment != SEGMENT_NEXT || (s64)(sender->advanced_ns - sender->begun_ns) <= STILL_NS)
        return;
    rare();
    if (seen->packet->has_timestamp && sender->edge_ns && !sender->waiting &&
        !later(seen->packet->tsval, sender->last_tsval))
        hand_over(sender, FAULT_STILL, seen->counters);
}

/*
 * Of a segment that was sent again: nobody can tell whether an echo of its TSval answers the first or the second
 * (Karn's rule, RFC 6298 section 3). As a rule it has a new one.
 */
static __always_inline void doubt_tsval(const struct observation *seen)
{
    struct half_flow *sender = seen->flow.sender;
    const struct outstanding *outstanding = outstanding_of_sender(&seen->flow);

    if (!sender->waiting || !seen->packet->has_timestamp || !sender->edge_ns)
        return;
#pragma clang loop unroll(disable)
    for (u32 i = 0; i < OUTSTANDING; i++) {
        if (!(sender->waiting & 1 << i) || outstanding->awaited[i] != seen->packet->tsval)
            continue;
        sender->waiting &= ~(1 << i);
        seen->counters->rtt_repeated++;
    }
}

/* A SYN begins a connection: nothing is known of how its sender is timed. */
static __always_inline void begin_timing(struct observation *seen)
{
    struct half_flow *sender = seen->flow.sender;

    abandon(sender, seen->counters);
    sender->timing = 0;
    if (!seen->packet->has_timestamp)
        sender->edge_ns = 0;
}

/*
 * Of an acknowledgement that echoes nothing of what waits: whether echoes come at all. One without an echo shows that
 * none does. One with an earlier echo may acknowledge several segments, of which it echoes the first (RFC 7323 section
 * 4.3); the next acknowledgement then echoes what was sent later. One of a segment that was not seen may echo what was
 * not seen: a TSval later than all.
 */
static __always_inline void miss_echo(struct half_flow *receiver, const struct packet *packet,
                                      struct interface_counters *counters)
{
    if (!HANDS_OVER || later(receiver->awaited, packet->ack_seq) || later(packet->ack_seq, receiver->next_seq))
        return;
    if (packet->has_timestamp && later(packet->tsecr, receiver->last_tsval))
        return;
    if (!packet->has_timestamp || !packet->tsecr || receiver->timing & TIMING_UNECHOED) {
        hand_over(receiver, FAULT_UNECHOED, counters);
    } else {
        receiver->timing |= TIMING_UNECHOED;
        receiver->awaited = receiver->next_seq + 1; /* of something not sent yet */
    }
}

/*
 * Of an endpoint that was handed over: whether timestamps time this segment, and so the endpoint, again. It needs a new
 * TSval. If echoes did not come, one must come first: see hand_back().
 */
static __always_inline bool takes_back(struct half_flow *sender, const struct packet *packet, bool is_answered,
                                       struct interface_counters *counters, u64 now_ns)
{
    bool is_new = later(packet->tsval, sender->last_tsval);

    sender->last_tsval = packet->tsval;
    if (!is_new || !is_answered)
        return false;
    if (sender->timing & TIMING_UNECHOED) {
        sender->awaited = packet->tsval;
        sender->timing |= TIMING_ADVANCED;
        return false;
    }
    /* This segment is timed in the place of one that waits. */
    if (sender->waiting) {
        abandon(sender, counters);
        sender->begun_ns = 0;
    }
    sender->timing = 0;
    sender->edge_ns = now_ns;
    return true;
}

/* Of an endpoint whose TSvals were not echoed: whether this one is. */
static __always_inline void hand_back(struct half_flow *receiver, const struct packet *packet, u64 now_ns)
{
    if (!(receiver->timing & TIMING_ADVANCED) || receiver->waiting || later(receiver->awaited, packet->tsecr) ||
        later(packet->tsecr, receiver->last_tsval))
        return;
    receiver->timing = 0;
    receiver->edge_ns = now_ns;
}
