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

/* A pair of prefixes: the first fields of an entry. */
struct prefix_pair {
    struct prefix internal;
    struct prefix external;
    u64 tag;
};

static __always_inline bool is_entry_of(const struct slot_cache_entry *entry, const struct prefix_pair *wanted)
{
    return entry->tag == wanted->tag && same_prefix(&entry->internal, &wanted->internal) &&
           same_prefix(&entry->external, &wanted->external);
}

/* Returns the first row for a pair of prefixes. The number of the second row is the number of the first row plus 1. */
static __always_inline u64 row_of(const struct context *ctx, const struct prefix_pair *wanted)
{
    u64 hash = mix(mix_prefix(mix_prefix(HASH_KEY, &wanted->internal), &wanted->external), 0);

    return (ctx->cpu << SLOT_CACHE_BITS) + (hash >> (64 - SLOT_CACHE_BITS) & ~1ULL);
}

/* Returns the subnet of an endpoint, and adds the endpoint's bit to the tag. `bit` is TAG_EMBEDDED for the endpoint. */
static __always_inline struct prefix subnet_of(const struct packet *packet, const struct address *address, u64 *tag,
                                               u64 bit)
{
    if (packet->family == FAMILY_V6) {
        struct address copy = *address;

        if (extract_ipv4(&copy)) {
            *tag |= bit;
            return prefix_of(&copy, mask_of(FAMILY_V4));
        }
    }
    return prefix_of(address, mask_of(packet->family));
}

static __always_inline const struct slot_cache_entry *find_entry(u64 row, const struct prefix_pair *wanted)
{
    const struct slot_cache_entry *entry = slot_cache_row(row);

    if (is_entry_of(entry, wanted))
        return entry;
    cold();
    entry = slot_cache_row(row ^ 1);
    return is_entry_of(entry, wanted) ? entry : 0;
}

/* Adds an entry, and returns it. The caller writes the slots. */
static __always_inline struct slot_cache_entry *add_entry(u64 row, const struct prefix_pair *pair)
{
    struct slot_cache_entry *first = slot_cache_row(row), *second = slot_cache_row(row ^ 1);

    *second = *first;
    first->tag = pair->tag;
    first->internal = pair->internal;
    first->external = pair->external;
    return first;
}

#if NETWORKS

/* Returns the entry for one endpoint of a split subnet: an IPv4 address, an IPv6 /64, or an IPv6 address. */
static __always_inline struct prefix_pair narrow_pair(struct packet *packet, const struct address *address, u64 tag)
{
    struct address copy = *address;
    bool is_v4 = packet->family == FAMILY_V4 || extract_ipv4(&copy);
    struct address mask = {.half = {~0ULL, is_v4 || PREFIX_WORDS > 1 ? ~0ULL : 0}};
    struct prefix_pair pair = {.internal = prefix_of(&copy, mask), .tag = tag | (is_v4 ? FAMILY_V4 : FAMILY_V6)};

    for (u32 i = 0; i < PREFIX_WORDS; i++)
        pair.internal.word[i] = hide_from_verifier(packet, pair.internal.word[i]);
    pair.tag = hide_from_verifier(packet, pair.tag);
    return pair;
}

#endif

/*
 * Finds the slot of one endpoint, if the pair of subnets is not in the cache, or if the subnet of the endpoint is split
 * by named networks. In the second case, `narrow_tag` is the tag of the endpoint's own entry; otherwise it is 0.
 * Returns whether the subnet is split.
 */
static __always_inline bool find_endpoint_slot(struct context *ctx, struct endpoint *endpoint, u64 narrow_tag)
{
    u64 split;

#if NETWORKS
    struct prefix_pair wanted = {};
    u64 row = 0;

    if (narrow_tag) {
        wanted = narrow_pair(ctx->packet, endpoint->address, narrow_tag);
        row = row_of(ctx, &wanted);

        const struct slot_cache_entry *found = find_entry(row, &wanted);

        if (found) {
            endpoint->slot = found->slots[0];
            return true;
        }
    }
#endif
    endpoint->slot = find_slot(ctx, endpoint, false, &split);
#if NETWORKS
    if (narrow_tag && endpoint->slot >= SHARED_SLOTS && !(split & SPLIT_64))
        add_entry(row, &wanted)->slots[0] = endpoint->slot;
#endif
    return split;
}

/*
 * Finds the slots of both endpoints. If an endpoint is counted in the overflow slot, the pair of slots is not cached,
 * and the program looks up both slots again for the next packet between the same subnets.
 *
 * If named networks split a subnet, the entry of a pair of subnets has no slot for the split endpoint. The slot is then
 * in an entry of the endpoint, whose tag has the bit TAG_NARROW. So only packets of split subnets need a second
 * look-up, and the number of entries does not grow with the number of pairs of addresses.
 */
static __always_inline void find_cached_slots(struct context *ctx, u32 epoch)
{
    struct packet *packet = ctx->packet;
    u64 source = bounded(source_index(packet, ctx->source.side), 2);
    const struct address *inside = source ? &packet->destination : &packet->source;
    const struct address *outside = source ? &packet->source : &packet->destination;

    /* Without these barriers, the compiler would choose between the two addresses for each word of a prefix. */
    barrier_var(inside);
    barrier_var(outside);

    u64 tag = (u64)epoch << 32 | (u32)ctx->interface << 8;
    struct prefix_pair wanted = {.tag = tag | packet->family};

    wanted.internal = subnet_of(packet, inside, &wanted.tag, TAG_EMBEDDED);
    wanted.external = subnet_of(packet, outside, &wanted.tag, TAG_EMBEDDED << 1);

    u64 row = row_of(ctx, &wanted);
    const struct slot_cache_entry *found = find_entry(row, &wanted);

    if (found) {
        ctx->source.slot = found->slots[source];
        ctx->destination.slot = found->slots[!source];
        if (!NETWORKS || (ctx->source.slot != NO_SINGLE_SLOT && ctx->destination.slot != NO_SINGLE_SLOT))
            return;
    }
    cold();

    bool source_is_split = false, destination_is_split = false;

    tag |= TAG_NARROW;
    if (!found || ctx->source.slot == NO_SINGLE_SLOT)
        source_is_split = find_endpoint_slot(ctx, &ctx->source, found ? tag | ctx->source.side << TAG_SIDE_SHIFT : 0);
    if (!found || ctx->destination.slot == NO_SINGLE_SLOT)
        destination_is_split =
            find_endpoint_slot(ctx, &ctx->destination, found ? tag | ctx->destination.side << TAG_SIDE_SHIFT : 0);
    if (found || ctx->source.slot < SHARED_SLOTS || ctx->destination.slot < SHARED_SLOTS)
        return;

    struct slot_cache_entry *added = add_entry(row, &wanted);

    added->slots[source] = source_is_split ? NO_SINGLE_SLOT : ctx->source.slot;
    added->slots[!source] = destination_is_split ? NO_SINGLE_SLOT : ctx->destination.slot;
}
