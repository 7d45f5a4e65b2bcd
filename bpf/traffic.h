/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets and bytes, per interface and per subnet. An aggregate made by GRO or for GSO counts as the packets that are
 * on the wire, with their headers, as qdisc statistics count it (the kernel's bstats_update()).
 */
#pragma once

#include "packet_start.h"
#include "packet.h"

static __always_inline struct tally wire_tally(struct __sk_buff *skb, u64 headers, bool ingress)
{
    u64 segments = skb->gso_segs ?: 1;

    /* On the way out, the headers of all segments are counted already. */
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
        rare();
        return CLASS_ICMP;
    default:
        return CLASS_OTHER;
    }
}

static __always_inline struct interface_counters *counters_of(u64 interface, u64 cpu)
{
    return interface_counters_row(interface * CPUS + cpu);
}

static __always_inline void count_traffic(u64 cpu, u32 source_slot, u32 destination_slot, enum traffic_class class,
                                          u8 ecn, struct tally tally)
{
    u32 from_row = source_slot * CPUS + cpu, to_row = destination_slot * CPUS + cpu;
    struct traffic *from = traffic.lookup(&from_row);
    struct traffic *to = traffic.lookup(&to_row);
    u64 index = bounded(class, CLASSES);

    if (from)
        add(&from->classes[index].from, tally);
    if (to)
        add(&to->classes[index].to, tally);
    if (ecn && from && to) {
        rare();

        u64 codepoint = bounded(ecn - 1, ECN_CODEPOINTS - 1);

        from->ecn_from[codepoint] += tally.packets;
        to->ecn_to[codepoint] += tally.packets;
    }
}
