/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The slots of both ends of a packet. A TCP flow remembers them itself. What has no flow, UDP above all, finds them in
 * a small table, which costs one cache line where two look-ups in the hash of subnets cost five, and two calls. Each
 * CPU has its own, so that nothing in it is ever half written. There are two places for a pair, side by side; of those
 * that want the same two, the one that came first goes.
 */
#pragma once

#include "packet.h"
#include "hash.h"
#include "subnet.h"

static __always_inline struct prefix prefix_of(const struct address *address, struct address mask)
{
    struct address halves = masked(address, mask);

#if PREFIX_WORDS > 1
    return (struct prefix){{halves.half[0], halves.half[1]}};
#else
    return (struct prefix){{halves.half[0] ^ halves.half[1]}};
#endif
}

static __always_inline bool same_prefix(const struct prefix *a, const struct prefix *b)
{
    return a->word[0] == b->word[0] && a->word[PREFIX_WORDS - 1] == b->word[PREFIX_WORDS - 1];
}

static __always_inline u64 mix_prefix(u64 hash, const struct prefix *prefix)
{
    for (u32 i = 0; i < PREFIX_WORDS; i++)
        hash = mix(hash, prefix->word[i]);
    return hash;
}

static __always_inline bool is_pair(const struct pair *pair, u64 mark, const struct prefix *internal,
                                    const struct prefix *external)
{
    return pair->mark == mark && same_prefix(&pair->internal, internal) && same_prefix(&pair->external, external);
}

/* A pair with an end that has no slot isn't remembered: its next packet asks for one again. */
static __always_inline void slots_of_pair(const struct packet *packet, u64 cpu, u16 interface, u32 source_side,
                                          u32 destination_side, u32 epoch, struct __sk_buff *skb,
                                          struct interface_counters *counters, u32 *source_slot, u32 *destination_slot)
{
    u64 source = bounded(place_of_source(packet, source_side), 2);
    struct address mask = mask_of(packet->family);
    const struct address *inside = source ? &packet->destination : &packet->source;
    const struct address *outside = source ? &packet->source : &packet->destination;

    /* Or the compiler chooses between the words of both, one by one. */
    asm volatile("" : "+r"(inside), "+r"(outside));

    struct prefix internal = prefix_of(inside, mask), external = prefix_of(outside, mask);
    u64 mark = (u64)epoch << 32 | (u32)interface << 8 | packet->family;
    u64 hash = mix(mix_prefix(mix_prefix(HASH_KEY, &internal), &external), 0);
    u64 row = (cpu << PAIR_BITS) + (hash >> (64 - PAIR_BITS) & ~1ULL);
    struct pair *pair = pairs_row(row), *found = pair, *other = 0;

    if (!is_pair(pair, mark, &internal, &external)) {
        rare();
        found = other = pairs_row(row ^ 1);
        if (!is_pair(other, mark, &internal, &external))
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
    if (*source_slot == OVERFLOW_SLOT || *destination_slot == OVERFLOW_SLOT)
        return;
    *other = *pair;
    pair->mark = mark;
    pair->internal = internal;
    pair->external = external;
    pair->slots[source] = *source_slot;
    pair->slots[!source] = *destination_slot;
}
