/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A packet, and all that a method of measuring may want to know of where it was seen.
 */
#pragma once

#include "events.h"
#include "sequence.h"

/* The ACK of a handshake may also echo a timestamp. */
#define RTTS_OF_A_PACKET 2

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
