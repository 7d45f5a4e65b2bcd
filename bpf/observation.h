/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A packet, and all that a method of measuring may want to know of where it was seen.
 */
#pragma once

#include "flow.h"
#include "histogram.h"

/* The ACK of a handshake may also echo a timestamp. */
#define RTTS_OF_A_PACKET 2

struct observation {
    struct __sk_buff *skb;
    struct interface_counters *counters;
    struct flow_view flow; /* of TCP; `has_flow` tells whether there is one */
    struct packet packet;
    enum side source_side;
    u32 source_slot; /* of TRAFFIC_METHOD */
    u16 interface;
    bool has_flow;
    /* What this packet answers: when that was sent (0: nothing), and by which method. */
    struct {
        u64 asked_ns;
        u64 method;
    } ended[RTTS_OF_A_PACKET];
};

/* This packet answers one that was sent at `asked_ns`. */
static __always_inline void answers(struct observation *seen, enum method method, u64 asked_ns)
{
    u32 place = seen->ended[0].asked_ns != 0;

    seen->ended[place].asked_ns = asked_ns;
    seen->ended[place].method = method;
}

/* Counts an RTT that this packet ends for the subnet it comes from. */
static __always_inline void record_rtt(struct observation *seen, enum method method, u64 asked_ns)
{
    u64 rtt_ns = precise_now(seen->skb) - asked_ns;

    if (rtt_ns > MAX_AGE_NS) {
        seen->counters->rtt_expired++;
        return;
    }

    u32 slot = method == TRAFFIC_METHOD ? seen->source_slot
                                        : slot_of(seen->packet.source, seen->packet.family, seen->interface,
                                                  seen->source_side, method, seen->skb, seen->counters);

    histogram_record(slot, rtt_ns, seen->counters);
}

/* All RTTs that this packet ends, in a loop that is one for the verifier, too. */
static __always_inline void record_rtts(struct observation *seen)
{
#pragma clang loop unroll(disable)
    for (int i = 0; i < RTTS_OF_A_PACKET; i++) {
        if (seen->ended[i].asked_ns)
            record_rtt(seen, seen->ended[i].method, seen->ended[i].asked_ns);
    }
}
