/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counts packets and bytes, per interface and per subnet. GRO merges several packets into one skb, and GSO splits one
 * skb into several packets. The program counts the packets on the wire, not the skbs, and counts the bytes of all
 * headers on the wire. The kernel counts packets in qdisc statistics in the same way (bstats_update()).
 */
#pragma once

#include "context.h"

static __always_inline struct tally wire_tally(struct __sk_buff *skb, u64 headers, bool ingress)
{
    u64 segments = skb->gso_segs ?: 1;

    /* For an outgoing skb, wire_length() already includes the headers of all segments. */
    return (struct tally){
        .packets = segments,
        .bytes = wire_length(skb) + (ingress ? (segments - 1) * headers : 0),
    };
}

static __always_inline void add(struct tally *tally, struct tally more)
{
    tally->packets += more.packets;
    tally->bytes += more.bytes;
}

static __always_inline enum traffic_class class_of(u64 kind, const struct packet *packet)
{
    switch (kind) {
    case KIND_TCP:
        return packet->has_timestamp ? CLASS_TCP_TIMESTAMP : CLASS_TCP_OTHER;
    case KIND_UDP:
        return CLASS_UDP;
    case KIND_ICMP:
        cold();
        return CLASS_ICMP;
    default:
        return CLASS_OTHER;
    }
}

static __always_inline struct interface_counters *counters_of(u64 interface, u64 cpu)
{
    return interface_counters_row(interface * CPUS + cpu);
}

/* Counts the packet for the subnet of the source and for the subnet of the destination. */
static __always_inline void count_traffic(const struct context *ctx, enum traffic_class class, struct tally tally)
{
    u8 ecn = ctx->packet->ecn;
    u32 from_row = ctx->source.slot * CPUS + ctx->cpu, to_row = ctx->destination.slot * CPUS + ctx->cpu;
    struct traffic *from = traffic.lookup(&from_row);
    struct traffic *to = traffic.lookup(&to_row);
    u64 index = bounded(class, CLASSES);

    if (from)
        add(&from->classes[index].from, tally);
    if (to)
        add(&to->classes[index].to, tally);
    if (ecn && from && to) {
        cold();

        u64 codepoint = bounded(ecn - 1, ECN_CODEPOINTS - 1);

        from->ecn_from[codepoint] += tally.packets;
        to->ecn_to[codepoint] += tally.packets;
    }
}
