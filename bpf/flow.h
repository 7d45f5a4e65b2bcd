/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Finds the flow table entry of a TCP segment. The entry contains the timestamps that wait for a reply, and the slots
 * of both subnets. So the program needs only one look-up per packet.
 *
 * Benign race: two CPUs may process packets of one flow at the same time, usually one CPU for each direction. The entry
 * has no lock. At worst an RTT, or a TCP event of a subnet, is lost or counted twice. Such errors are rare.
 */
#pragma once

#include "flow_table.h"
#include "subnet.h"

/*
 * Returns whether `a` is later than `b`, as the kernel's after() does. `a` and `b` are two sequence numbers or two
 * timestamps. Sequence numbers and timestamps wrap around (RFC 9293 section 3.4, RFC 7323 section 5.2).
 */
static __always_inline bool after(u32 a, u32 b)
{
    return (s32)(a - b) > 0;
}

static __always_inline struct flow_key flow_key_of(const struct context *ctx, u64 source)
{
    const struct packet *packet = ctx->packet;

    return (struct flow_key){
        .internal = source ? packet->destination : packet->source,
        .external = source ? packet->source : packet->destination,
        .internal_port = source ? packet->destination_port : packet->source_port,
        .external_port = source ? packet->source_port : packet->destination_port,
        .interface = ctx->interface,
        .family = packet->family,
    };
}

/*
 * Finds the flow of a segment, or creates the flow. Returns false if the segment has no flow. A SYN does not create a
 * flow, so that a SYN flood cannot evict established flows. A RST does not create a flow either, because a RST ends its
 * connection.
 */
static __always_inline bool find_flow(struct context *ctx)
{
    const struct packet *packet = ctx->packet;
    u64 source = bounded(source_index(packet, ctx->source.side), 2);
    struct flow_key key = flow_key_of(ctx, source);
    struct flow_place place = place_of_key(&key);
    struct flow *flow = lookup_flow(&key, place);

    if (!flow) {
        cold();
        if ((packet->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN || packet->tcp_flags & TCP_RST)
            return false;
        flow = insert_flow(&key, place, ctx->now_ns, ctx->counters);
        if (!flow)
            return false;
    }
    ctx->flow = flow;
    ctx->source_index = source;
    ctx->sender = &flow->half[source];
    ctx->receiver = &flow->half[!source];
    if (!ctx->sender->has_sent) {
        cold();
        ctx->sender->has_sent = 1;
        if (ctx->receiver->has_sent)
            mark_bidirectional(place, true);
    }
    return true;
}

/*
 * The flow caches the slots of both endpoints. The epoch and the slot are in one 64-bit word, so that a slow CPU cannot
 * store a slot of an old epoch together with a new epoch.
 */
#if NETWORKS

/* Sets the slots of both endpoints, if the flow has cached both slots in this epoch. */
static __always_inline bool has_cached_slots(struct context *ctx, u32 epoch)
{
    u64 source = ctx->flow->cached_slots[ctx->source_index], destination = ctx->flow->cached_slots[!ctx->source_index];

    ctx->source.slot = source;
    ctx->destination.slot = destination;
    return source >> 32 == epoch && destination >> 32 == epoch;
}

static __always_inline void cache_slots(const struct context *ctx, u32 epoch)
{
    ctx->flow->cached_slots[ctx->source_index] = (u64)epoch << 32 | ctx->source.slot;
    ctx->flow->cached_slots[!ctx->source_index] = (u64)epoch << 32 | ctx->destination.slot;
}

#else

/* Returns the slot of an endpoint, and caches the slot in the flow. */
static __always_inline u32 cached_slot(const struct context *ctx, const struct endpoint *endpoint, u64 *cache,
                                       u32 epoch)
{
    u64 cached = *cache;

    if (cached >> 32 != epoch) {
        cold();
        cached = (u64)epoch << 32 | slot_of(ctx, endpoint, false);
        *cache = cached;
    }
    return cached;
}

#endif
