/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The slots of both ends of a packet. A TCP flow remembers them itself. What has no flow, UDP above all, finds them in
 * a small table, which costs one cache line where two look-ups in the hash of subnets cost five, and two calls. Each
 * CPU has its own, so that nothing in it is ever half written. Pairs that want the same place take it from each other.
 */
#pragma once

#include "subnet.h"

/* 2^64 / golden ratio: Knuth, The Art of Computer Programming, volume 3, section 6.4, "multiplicative hashing". */
#define PAIR_MULTIPLIER 0x9E3779B97F4A7C15ULL

static __always_inline u64 fold(struct address address)
{
    return address.half[0] ^ address.half[1];
}

static __always_inline bool same_address(const struct address *a, const struct address *b)
{
    return a->half[0] == b->half[0] && a->half[1] == b->half[1];
}

/* A pair with an end that has no slot isn't remembered: its next packet asks for one again. */
static __always_inline void slots_of_pair(const struct packet *packet, u16 interface, u32 source_side,
                                          u32 destination_side, u32 epoch, struct __sk_buff *skb,
                                          struct interface_counters *counters, u32 *source_slot, u32 *destination_slot)
{
    struct address source = prefix_of(packet->source, packet->family);
    struct address destination = prefix_of(packet->destination, packet->family);
    u64 mixed = (fold(source) * PAIR_MULTIPLIER + fold(destination)) * PAIR_MULTIPLIER;
    u32 row = (bpf_get_smp_processor_id() << PAIR_BITS) + (mixed >> (64 - PAIR_BITS));
    struct pair *pair = pairs.lookup(&row);

    if (pair && pair->epoch == epoch && pair->interface == interface && pair->family == packet->family &&
        pair->source_side == source_side && same_address(&pair->source, &source) &&
        same_address(&pair->destination, &destination)) {
        *source_slot = pair->source_slot;
        *destination_slot = pair->destination_slot;
        return;
    }
    *source_slot = slot_of(packet->source, packet->family, interface, source_side, TRAFFIC_METHOD, skb, counters);
    *destination_slot =
        slot_of(packet->destination, packet->family, interface, destination_side, TRAFFIC_METHOD, skb, counters);
    if (pair && *source_slot != OVERFLOW_SLOT && *destination_slot != OVERFLOW_SLOT)
        *pair = (struct pair){
            .source = source,
            .destination = destination,
            .epoch = epoch,
            .interface = interface,
            .family = packet->family,
            .source_side = source_side,
            .source_slot = *source_slot,
            .destination_slot = *destination_slot,
        };
}
