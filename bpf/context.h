/* SPDX-License-Identifier: GPL-2.0-only */
/* The context of the packet that is processed: the packet itself, the interface, both endpoints, the flow. */
#pragma once

#include "flow_maps.h"
#include "packet.h"

/* One endpoint of the packet: its source or its destination. */
struct endpoint {
    const struct address *address;
    u32 side; /* enum side */
    u32 slot; /* slot of the endpoint's subnet */
};

/*
 * The compiler keeps the fields of the context in registers. If the program passed a pointer into the context to a BPF
 * helper, the compiler would have to keep the fields in memory.
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
    /* ---- TCP only */
    bool has_flow;
    bool only_ack;     /* see has_only_ack() */
    u8 segment;        /* enum segment */
    u64 now_ns;        /* coarse time; 0 if the packet is not TCP */
    struct flow *flow; /* this field and the next three fields are valid only if has_flow is true */
    u64 source_index;  /* index of the sender in the arrays of `flow` */
    struct half_flow *sender;
    struct half_flow *receiver;
#if EVENTS
    struct event_half *event_sender;
    struct event_half *event_receiver;
#endif
};

/*
 * Returns the TCP flags of the segment. Each function that needs the flags calls flags_of() itself. If one function
 * passed the flags to the next function, the verifier would remember the result of each comparison with the flags.
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
 * Adds an RTT that this packet completes. `sent_ns` is the send time of the packet that this packet answers. If
 * `sent_ns` is 0, the answered packet is in a capture and has no timestamp, so no RTT is added.
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
