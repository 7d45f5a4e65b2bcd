/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A cache of the slots of both endpoints of a packet. The slot cache is only for packets without a flow, mainly UDP
 * packets, because a flow table entry contains the slots of a TCP flow. A look-up in the slot cache reads one cache
 * line. Two look-ups in the hash map of subnets would read five cache lines and make two calls. Each CPU has its own
 * slot cache, so a CPU never reads an entry that is only partly written. A pair of subnets can be in one of two
 * adjacent rows. A new pair of subnets evicts the older pair from these two rows.
 */
#pragma once

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

static __always_inline bool is_entry_of(const struct slot_cache_entry *entry, u64 tag, const struct prefix *internal,
                                        const struct prefix *external)
{
    return entry->tag == tag && same_prefix(&entry->internal, internal) && same_prefix(&entry->external, external);
}

/*
 * Finds the slots of both endpoints. If an endpoint is counted in the overflow slot, the pair of slots is not cached,
 * and the program looks up both slots again for the next packet between the same subnets.
 */
static __always_inline void find_cached_slots(struct context *ctx, u32 epoch)
{
    const struct packet *packet = ctx->packet;
    u64 source = bounded(source_index(packet, ctx->source.side), 2);
    struct address mask = mask_of(packet->family);
    const struct address *inside = source ? &packet->destination : &packet->source;
    const struct address *outside = source ? &packet->source : &packet->destination;

    /* Without these barriers, the compiler would choose between the two addresses for each word of a prefix. */
    barrier_var(inside);
    barrier_var(outside);

    struct prefix internal = prefix_of(inside, mask), external = prefix_of(outside, mask);
    u64 tag = (u64)epoch << 32 | (u32)ctx->interface << 8 | packet->family;
    u64 hash = mix(mix_prefix(mix_prefix(HASH_KEY, &internal), &external), 0);
    u64 row = (ctx->cpu << SLOT_CACHE_BITS) + (hash >> (64 - SLOT_CACHE_BITS) & ~1ULL);
    struct slot_cache_entry *first = slot_cache_row(row), *found = first, *second = 0;

    if (!is_entry_of(first, tag, &internal, &external)) {
        cold();
        found = second = slot_cache_row(row ^ 1);
        if (!is_entry_of(second, tag, &internal, &external))
            found = 0;
    }
    if (found) {
        ctx->source.slot = found->slots[source];
        ctx->destination.slot = found->slots[!source];
        return;
    }
    cold();
    ctx->source.slot = slot_of(ctx, &ctx->source, false);
    ctx->destination.slot = slot_of(ctx, &ctx->destination, false);
    if (ctx->source.slot < SHARED_SLOTS || ctx->destination.slot < SHARED_SLOTS)
        return;
    *second = *first;
    first->tag = tag;
    first->internal = internal;
    first->external = external;
    first->slots[source] = ctx->source.slot;
    first->slots[!source] = ctx->destination.slot;
}
