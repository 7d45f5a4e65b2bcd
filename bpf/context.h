/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A packet, and all that a method of measuring may want to know of where it was seen.
 */
#pragma once

#include "events.h"
#include "tcp_analysis.h"

struct observation {
    struct __sk_buff *skb;
    struct interface_counters *counters;
    struct flow_view flow; /* of TCP; `has_flow` tells whether there is one */
    struct packet *packet;
    u32 source_side;
    u32 source_slot; /* of TRAFFIC_METHOD */
    u16 interface;
    bool has_flow;
    u8 segment; /* enum segment, of TCP */
    bool ingress;
#if EVENTS
    struct watched_half *watched_sender;
    struct watched_half *watched_receiver;
#endif
};

/* This packet answers one that was sent at `asked_ns`. 0 is no time: some of a capture have none. */
static __always_inline void answers(struct observation *seen, enum method method, u64 asked_ns)
{
    struct packet *packet = seen->packet;
    u64 place = packet->answers;

    if (!asked_ns || place >= RTTS_OF_A_PACKET)
        return;
    place = bounded(place, RTTS_OF_A_PACKET);
    packet->ended[place].asked_ns = asked_ns;
    packet->ended[place].method = method;
    packet->answers = place + 1;
}
