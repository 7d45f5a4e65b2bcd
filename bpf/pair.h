/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The slots of both ends of a packet. A TCP flow remembers them itself. What has no flow, UDP above all, finds them in
 * a small table, which costs one cache line where two look-ups in the hash of subnets cost five, and two calls. Each
 * CPU has its own, so that nothing in it is ever half written. There are two places for a pair, side by side; of those
 * that want the same two, the one that came first goes.
 */
#pragma once

#include "endpoints.h"
#include "hash.h"
#include "subnet.h"

static __always_inline bool same_address(const struct address *a, const struct address *b)
{
    return a->half[0] == b->half[0] && a->half[1] == b->half[1];
}

static __always_inline bool is_pair(const struct pair *pair, const struct address *internal,
                                    const struct address *external, u16 interface, u8 family, u32 epoch)
{
    return pair->epoch == epoch && pair->interface == interface && pair->family == family &&
           same_address(&pair->internal, internal) && same_address(&pair->external, external);
}

/* Of a prefix, one half is as a rule 0, or always the same. */
static __always_inline u64 fold(const struct address *prefix)
{
    return prefix->half[0] ^ prefix->half[1];
}

/* A pair with an end that has no slot isn't remembered: its next packet asks for one again. */
static __always_inline void slots_of_pair(const struct packet *packet, u64 cpu, u16 interface, u32 source_side,
                                          u32 destination_side, u32 epoch, struct __sk_buff *skb,
                                          struct interface_counters *counters, u32 *source_slot, u32 *destination_slot)
{
    u64 source = opaque(place_of_source(packet, source_side)) & 1;
    struct address mask = mask_of(packet->family);
    const struct address *inside = source ? &packet->destination : &packet->source;
    const struct address *outside = source ? &packet->source : &packet->destination;

    /* Or the compiler chooses between the words of both, one by one. */
    asm volatile("" : "+r"(inside), "+r"(outside));

    struct address internal = masked(inside, mask), external = masked(outside, mask);
    u64 hash = mix(mix(mix(HASH_KEY, fold(&internal)), fold(&external)), 0);
    u64 row = (cpu << PAIR_BITS) + (hash >> (64 - PAIR_BITS) & ~1ULL);
    struct pair *pair = pairs_row(row), *found = pair, *other = 0;

    if (!pair || !is_pair(pair, &internal, &external, interface, packet->family, epoch)) {
        rare();
        row ^= 1;
        found = other = pairs_row(row);
        if (other && !is_pair(other, &internal, &external, interface, packet->family, epoch))
            found = 0;
    }
    if (found) {
        *source_slot = found->slots[source];
        *destination_slot = found->slots[!source];
        return;
    }
    rare();
    *source_slot = slot_of(packet->source, packet->family, interface, source_side, TRAFFIC_METHOD, skb, counters);
    *destination_slot =
        slot_of(packet->destination, packet->family, interface, destination_side, TRAFFIC_METHOD, skb, counters);
    if (!pair || !other || *source_slot == OVERFLOW_SLOT || *destination_slot == OVERFLOW_SLOT)
        return;
    *other = *pair;
    pair->internal = internal;
    pair->external = external;
    pair->epoch = epoch;
    pair->interface = interface;
    pair->family = packet->family;
    pair->slots[source] = *source_slot;
    pair->slots[!source] = *destination_slot;
}
