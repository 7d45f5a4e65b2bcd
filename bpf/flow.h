/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The entry of a TCP flow: one look-up per packet finds the timestamps that wait for their reply and the slots of both
 * subnets.
 *
 * Packets of one flow may be handled by two CPUs at once, as a rule one for each direction. Nothing here is locked:
 * the worst that a race does is lose an RTT, or match it twice. Benign, and rare.
 */
#pragma once

#include "packet.h"
#include "flow_table.h"
#include "subnet.h"
#include "transport_headers.h"

struct flow_view {
    struct flow *flow;
    u64 source; /* 0: it is the internal endpoint, 1: the external one */
    struct half_flow *sender;
    struct half_flow *receiver;
};

/*
 * Whether the first of two endpoints is external: tells apart a packet that comes in and the same packet that leaves by
 * the same interface. In a capture nothing does, and both directions must be one flow.
 */
static __always_inline u8 is_external(bool is_source, u32 source_side)
{
    /* is_source == (source_side == SIDE_EXTERNAL), or 0 if it is SIDE_UNKNOWN: a branch here doubles what the verifier
     * has to follow. */
    return (is_source ^ source_side) & 1 & ~(source_side >> 1);
}

/* RFC 9293 section 3.4, RFC 7323 section 5.2: sequence numbers and timestamps wrap around. */
static __always_inline bool later(u32 a, u32 b)
{
    return (s32)(a - b) > 0;
}

static __always_inline struct flow_key flow_key_of(const struct packet *packet, u16 interface, u64 source)
{
    return (struct flow_key){
        .internal = source ? packet->destination : packet->source,
        .external = source ? packet->source : packet->destination,
        .internal_port = source ? packet->destination_port : packet->source_port,
        .external_port = source ? packet->source_port : packet->destination_port,
        .interface = interface,
        .family = packet->family,
    };
}

/* Of what the sender sent, and of what the receiver did. */
static __always_inline struct outstanding *outstanding_of_sender(const struct flow_view *view)
{
    return &view->flow->outstanding[view->source];
}

static __always_inline struct outstanding *outstanding_of_receiver(const struct flow_view *view)
{
    return &view->flow->outstanding[!view->source];
}

/*
 * Finds the flow of a segment, or begins it. A SYN begins none, so that a SYN flood cannot push out established flows,
 * nor does a RST, which ends whatever it answers.
 */
static __always_inline bool find_flow(const struct packet *packet, u16 interface, u32 source_side, u64 now_ns,
                                      struct interface_counters *counters, struct flow_view *view)
{
    u64 source = bounded(place_of_source(packet, source_side), 2);
    struct flow_key key = flow_key_of(packet, interface, source);
    struct flow_place place = place_of(&key);
    struct flow *flow = find_in_table(&key, place);

    if (!flow) {
        rare();
        if ((packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN || packet->tcp_flags & TCP_RST)
            return false;
        flow = add_to_table(&key, place, now_ns, counters);
        if (!flow)
            return false;
    }
    view->flow = flow;
    view->source = source;
    view->sender = &flow->half[view->source];
    view->receiver = &flow->half[!view->source];
    if (!view->sender->heard) {
        rare();
        view->sender->heard = 1;
        if (view->receiver->heard)
            mark_answered(place, true);
    }
    return true;
}

/*
 * The slot of an endpoint, remembered in its flow. Epoch and slot are one word, so that a slow CPU can't put a slot of
 * an old epoch under a new one.
 */
static __always_inline u32 cached_slot(u64 *place, u32 epoch, struct address address, u8 family, u16 interface,
                                       u32 side, struct __sk_buff *skb, struct interface_counters *counters)
{
    u64 cached = *place;

    if (cached >> 32 != epoch) {
        rare();
        cached = (u64)epoch << 32 | slot_of(address, family, interface, side, TRAFFIC_METHOD, skb, counters);
        *place = cached;
    }
    return cached;
}
