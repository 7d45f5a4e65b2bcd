/* SPDX-License-Identifier: GPL-2.0-only */
/* What the program knows of the packet that it processes: the packet itself, the interface, both ends, the flow. */
#pragma once

#include "flow_maps.h"
#include "packet.h"

/* One end of the packet. */
struct endpoint {
    const struct address *address;
    u32 side; /* enum side */
    u32 slot; /* of its subnet, for TRAFFIC_METHOD */
};

/*
 * The compiler keeps the fields in registers, and not in memory, as long as no BPF helper gets a pointer into the
 * context.
 */
struct context {
    struct __sk_buff *skb;
    struct packet *packet;
    struct interface_counters *counters;
    struct endpoint source;
    struct endpoint destination;
    u64 cpu;
    u16 interface; /* identifier: struct interface.id */
    bool ingress;
    /* ---- of TCP only */
    bool has_flow;
    bool only_ack;     /* see has_only_ack() */
    u8 segment;        /* enum segment */
    u64 now_ns;        /* coarse time; 0 for other packets */
    struct flow *flow; /* this field and the next three: only with has_flow */
    u64 source_index;  /* of the sender in `flow` */
    struct half_flow *sender;
    struct half_flow *receiver;
#if EVENTS
    struct event_half *event_sender;
    struct event_half *event_receiver;
#endif
};

/*
 * The TCP flags of the segment. Each function reads them anew: if the value were passed on, the verifier would keep
 * track of each comparison with it.
 */
static __always_inline u16 flags_of(const struct context *ctx)
{
    return ctx->only_ack ? TCP_ACK : ctx->packet->tcp_flags;
}

static __always_inline struct outstanding *outstanding_of_sender(const struct context *ctx)
{
    return &ctx->flow->outstanding[ctx->source_index];
}

static __always_inline struct outstanding *outstanding_of_receiver(const struct context *ctx)
{
    return &ctx->flow->outstanding[!ctx->source_index];
}

/*
 * Adds an RTT that this packet ends: it answers a packet that was sent at `sent_ns`. 0 is no time, because some packets
 * of a capture have none.
 */
static __always_inline void add_rtt(struct context *ctx, enum method method, u64 sent_ns)
{
    struct packet *packet = ctx->packet;
    u64 place = packet->rtt_count;

    if (!sent_ns || place >= MAX_RTTS_PER_PACKET)
        return;
    place = bounded(place, MAX_RTTS_PER_PACKET);
    packet->rtts[place].sent_ns = sent_ns;
    packet->rtts[place].method = method;
    packet->rtt_count = place + 1;
}
