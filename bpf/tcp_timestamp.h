/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Method tcp_timestamp: a segment's TSval comes back as the TSecr of its acknowledgement (RFC 7323 section 3). The
 * method of Kathie Nichols' pping and of ePPing; each rule below is one that they or their users learned the hard way.
 */
#pragma once

#include "tcp_method_choice.h"

/*
 * Whether this TSval is sent for the first time, by a segment that somebody must answer.
 * - A SYN begins the sender's timestamps anew: a port may be used again. Its answer belongs to the handshake. One with
 *   an earlier TSval may also have been overtaken by what came after it: then nothing is known of them.
 * - The first TSval of a flow joined mid-way may have been sent before we looked: wait for the next.
 * - Only an advancing TSval is new; what is equal or earlier was sent again or overtaken on the way.
 * - But after a silence in which all that waited expired, an earlier one is a new connection whose SYN we missed.
 * - A pure ACK is answered when the other application next speaks, which is no round trip.
 */
static __always_inline bool begins_rtt(struct observation *seen, bool plain)
{
    struct half_flow *sender = seen->flow.sender;
    const struct packet *packet = seen->packet;
    struct __sk_buff *skb = seen->skb;
    u8 flags = flags_of(packet, plain);

    if (flags & TCP_SYN || !sender->edge_ns) {
        rare();
        if (sender->timing & TIMING_HANDED_OVER)
            return takes_back(sender, packet, packet->payload || flags & TCP_FIN, seen->counters, coarse_now(skb));
        abandon(sender, seen->counters);
        if (sender->edge_ns && later(sender->last_tsval, packet->tsval)) {
            sender->edge_ns = 0;
            return false;
        }
    } else {
        if (packet->tsval == sender->last_tsval)
            return false;
        if (later(packet->tsval, sender->last_tsval)) {
            sender->last_tsval = packet->tsval;
            sender->edge_ns = coarse_now(skb);
            return packet->payload || flags & TCP_FIN;
        }
        rare();
        if (coarse_now(skb) - sender->edge_ns <= MAX_AGE_NS)
            return false;
    }
    sender->last_tsval = packet->tsval;
    sender->edge_ns = coarse_now(skb);
    return false;
}

/*
 * Remembers a TSval until its reply. At most one in SAMPLE_INTERVAL_NS; and never in the place of one that still
 * waits, or a path longer than OUTSTANDING samples would yield no RTT at all.
 */
static __always_inline void remember(struct half_flow *sender, struct outstanding *outstanding, u32 tsval,
                                     struct __sk_buff *skb, struct interface_counters *counters)
{
    u64 edge_ns = sender->edge_ns, now_ns;

    if (SAMPLE_INTERVAL_NS && sender->begun_ns && edge_ns - sender->begun_ns < SAMPLE_INTERVAL_NS)
        return;
    now_ns = precise_now(skb);
    for (int i = 0; i < OUTSTANDING; i++) {
        if (sender->waiting & 1 << i) {
            /* In a capture, time may go back. */
            if ((s64)(now_ns - outstanding->sent_ns[i]) <= (s64)MAX_AGE_NS)
                continue;
            counters->rtt_expired++;
        }
        outstanding->awaited[i] = tsval;
        outstanding->sent_ns[i] = now_ns;
        if (!sender->waiting)
            sender->awaited = sender->next_seq;
        sender->waiting |= 1 << i;
        sender->begun_ns = edge_ns;
        counters->rtt_begun++;
        return;
    }
    counters->rtt_not_begun++;
}

/*
 * The time at which the TSval echoed in TSecr was sent, or 0. It is forgotten, so that it matches once, and with it all
 * earlier ones: an endpoint never goes back to them.
 */
static __always_inline u64 recall(const struct observation *seen)
{
    const struct packet *packet = seen->packet;
    const struct outstanding *outstanding = outstanding_of_receiver(&seen->flow);
    struct half_flow *receiver = seen->flow.receiver;
    u64 sent_ns = 0;
    u8 waiting = receiver->waiting;

    /* As a rule nothing waits: as many are begun as SAMPLE_INTERVAL_NS allows. */
    if (!waiting)
        return 0;
    rare();
    if (!receiver->edge_ns)
        return 0;
    /* Not an echo of what was never sent. */
    if (!later(packet->tsecr, receiver->last_tsval)) {
        for (int i = 0; i < OUTSTANDING; i++) {
            if (!(waiting & 1 << i) || later(outstanding->awaited[i], packet->tsecr))
                continue;
            /* In a capture, time may go back, and the same TSval begin twice. */
            if (outstanding->awaited[i] == packet->tsecr && !sent_ns)
                sent_ns = outstanding->sent_ns[i];
            else
                seen->counters->rtt_superseded++;
            waiting &= ~(1 << i);
        }
    }
    if (waiting == receiver->waiting) {
        miss_echo(receiver, packet, seen->counters);
    } else {
        receiver->waiting = waiting;
        receiver->awaited = receiver->next_seq;
        receiver->timing &= ~TIMING_UNECHOED;
    }
    return sent_ns;
}

/* RFC 7323 3.2: TSecr is valid only with ACK. A RST may be anybody's, so it neither begins nor ends anything. */
static __always_inline void tcp_timestamp(struct observation *seen, bool plain)
{
    const struct packet *packet = seen->packet;
    u8 flags = flags_of(packet, plain);

    if (!seen->has_flow || !packet->has_timestamp || flags & TCP_RST)
        return;

    if (flags & TCP_ACK) {
        u64 sent_ns = recall(seen);

        if (sent_ns)
            answers(seen, METHOD_TCP_TIMESTAMP, sent_ns);
    }
    if (begins_rtt(seen, plain))
        remember(seen->flow.sender, outstanding_of_sender(&seen->flow), packet->tsval, seen->skb, seen->counters);
}
