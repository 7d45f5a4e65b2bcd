/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Finds the slot of an address's subnet, and claims a slot for a new subnet. If a named network contains the address,
 * the slot belongs to the named network (networks.h), and everything that is said below about subnets applies to the
 * named network.
 *
 * Anybody can send packets with forged source addresses. So a subnet gets a lasting slot only when an RTT has been
 * measured for it, because the sender of forged packets does not see the packets that it would have to answer. Until an
 * RTT has been measured, the subnet is a newcomer. Three rules limit the number of slots. The limits depend on the
 * number of free slots, so they adapt to the number of subnets. Shared-memory switches use the same kind of limit, the
 * dynamic threshold (Choudhury and Hahne, 1998).
 *
 * - The number of slots of newcomers is at most a third of the number of free slots. If there are only newcomers, this
 *   limit is a quarter of all slots. User space takes back a slot that has belonged to a newcomer for some seconds.
 * - The subnets of one covering prefix get at most 24 times as many slots as there are free slots. If there is no other
 *   subnet, this limit is 24/25 of all slots. An attacker with a large network could otherwise answer from all of its
 *   subnets, and take all slots. User space reclaims slots of the largest covering prefixes when less than 1/17 of all
 *   slots is free.
 * - A newcomer without a slot is counted in UNANSWERED_SLOT. When an RTT is measured for such a newcomer, the program
 *   claims a slot.
 *
 * User space fills the queue of free slots. Only user space reclaims slots. To reclaim a slot, user space deletes the
 * subnet's key, raises the epoch, waits until no CPU can use the slot, and puts the slot into the queue again.
 */
#pragma once

#include "clock.h"
#include "context.h"
#include "embedded_ipv4.h"
#include "hash.h"
#include "networks.h"

/* A newcomer gets a slot if all newcomers together have less than 1 / FREE_PER_NEWCOMER of the number of free slots. */
#define FREE_PER_NEWCOMER 3
/* A subnet gets a slot if the number of slots of its covering prefix is less than this multiple of the number of free
 * slots. */
#define COVERING_PER_FREE 24
/* The lengths of covering prefixes. Providers typically get an IPv6 /32 (RIPE-738). */
#define COVERING_V4 8
#define COVERING_V6 32

/* A 64-bit mask, in network byte order, whose first `bits` bits are 1. */
#define MASK64(bits) ((bits) <= 0 ? 0 : (bits) >= 64 ? ~0ULL : __cpu_to_be64(~0ULL << (64 - ((bits) & 63))))

static __always_inline struct address mask_of(u8 family)
{
    if (family == FAMILY_V4)
        return (struct address){.half = {~0ULL, MASK64(PREFIX_V4 + 32)}};
    return (struct address){.half = {MASK64(PREFIX_V6), MASK64(PREFIX_V6 - 64)}};
}

static __always_inline struct address masked(const struct address *address, struct address mask)
{
    return (struct address){.half = {address->half[0] & mask.half[0], address->half[1] & mask.half[1]}};
}

/* Returns the row of the covering prefix in `claims`. A named network counts as a covering prefix of its own. */
static __always_inline u32 covering_row(const struct subnet_key *key)
{
    u64 first = key->prefix.half[0], second = key->prefix.half[1];

    if (key->family == FAMILY_V4)
        second &= MASK64(COVERING_V4 + 32);
    else if (!NETWORKS || key->family == FAMILY_V6) {
        first &= MASK64(COVERING_V6);
        second = 0;
    }
    return CLAIMS_COVERING + (mix(mix(mix(HASH_KEY, first), second), 0) >> (64 - COVERING_BITS));
}

/*
 * Returns register << 8 | rank of a subnet in the sketch. The rank is the number of leading zeros in the rest of the
 * hash, plus 1. The hash has one more round than other hashes. Without this round, the error of the estimate would be
 * up to 18 % for adjacent prefixes, because adjacent prefixes would not be spread at random.
 */
static __always_inline u32 sketch_of(const struct subnet_key *key)
{
    u64 hash = mix(mix(mix(mix(HASH_KEY, key->prefix.half[0]), key->prefix.half[1]), 0), 0);
    u64 rest = hash << SKETCH_BITS >> SKETCH_BITS | 1;

    return hash >> (64 - SKETCH_BITS) << 8 | (64 - SKETCH_BITS - leading_bit(rest));
}

/*
 * Counts a newcomer without a slot in the sketch. Benign race: if two CPUs change one register at the same time, one
 * change may be lost. At worst the estimate is then lower by its standard error.
 */
static __always_inline void count_unanswered(u32 sketch)
{
    u32 interval = current_control()->interval, row = sketch >> 8;
    struct sketch_register *found = unanswered_sketch.lookup(&row);
    u64 word = (u64)interval << 8 | (sketch & 0xff), parity = bounded(interval & 1, 2);

    if (found && found->word[parity] < word)
        found->word[parity] = word;
}

/*
 * Sets bits of a slot's state, and returns the earlier state. LLVM 21 rejects __sync_fetch_and_or() if its result is
 * used. A state changes at most twice, so the exchange fails at most twice.
 */
static __always_inline u64 set_state(struct slot *slot, u64 bits)
{
    u64 before = slot->state;

    for (int i = 0; i < 3; i++) {
        u64 current = __sync_val_compare_and_swap(&slot->state, before, before | bits);

        if (current == before)
            break;
        before = current;
    }
    return before;
}

/* Returns whether the rules allow another slot for this key. `answered`: an RTT has been measured for the subnet. */
static __always_inline bool may_claim(const struct claims *all, const struct claims *newcomers,
                                      const struct claims *covering, bool answered)
{
    u32 free = MAX_SLOTS - in_use(all);

    return (answered || in_use(newcomers) * FREE_PER_NEWCOMER < free) &&
           in_use(covering) < (u64)free * COVERING_PER_FREE;
}

/*
 * Takes a free slot for a new subnet. Returns a shared slot if the subnet gets no slot.
 *
 * Benign race: several CPUs may pass may_claim() at the same time. At worst each CPU claims one slot too many.
 */
static __always_inline u32 claim_slot(const struct context *ctx, struct subnet_key *key, bool answered)
{
    u32 all_row = CLAIMS_SLOTS, newcomers_row = CLAIMS_NEWCOMERS, row = covering_row(key), index = 0;
    u32 sketch = answered ? 0 : sketch_of(key);
    struct claims *all = claims.lookup(&all_row), *newcomers = claims.lookup(&newcomers_row);
    struct claims *covering = claims.lookup(&row);
    struct slot *slot;
    u64 state;

    if (!all || !newcomers || !covering)
        return OVERFLOW_SLOT;
    if (may_claim(all, newcomers, covering, answered) && free_slots.pop(&index))
        index = fresh_row(all, SHARED_SLOTS, MAX_SLOTS);
    if (!index && answered) {
        ctx->counters->subnet_insert_failed++;
        return OVERFLOW_SLOT;
    }
    if (!index) {
        count_unanswered(sketch);
        return UNANSWERED_SLOT;
    }
    slot = slots.lookup(&index);
    if (!slot)
        return OVERFLOW_SLOT;
    slot->key = *key;
    slot->created_ns = precise_now(ctx->skb);
    if (subnets.insert(key, &index)) {
        /* The insertion failed because another CPU inserted the same key first. The table cannot be full, because there
         * are not more slots than table entries. */
        u32 *theirs = subnets.lookup(key);

        free_slots.push(&index, 0);
        if (theirs)
            return *theirs;
        ctx->counters->subnet_insert_failed++;
        return OVERFLOW_SLOT;
    }
    __sync_fetch_and_add(&all->claimed, 1);
    __sync_fetch_and_add(&covering->claimed, 1);
    /*
     * This operation is a full memory barrier, so a reader that sees the state also sees the key. Another CPU may have
     * found the key already, and may have measured an RTT.
     */
    state = set_state(slot, (u64)sketch << 32 | row << 8 | (answered ? SLOT_ANSWERED : SLOT_NEWCOMER));
    if (!answered && !(state & SLOT_ANSWERED))
        __sync_fetch_and_add(&newcomers->claimed, 1);
    return index;
}

/*
 * Returns the slot of the endpoint's named network or subnet. `answered`: an RTT has been measured for it. Sets `split`
 * to the flags of the address (enum network_flags), or to 0.
 */
static __always_inline u32 find_slot(const struct context *ctx, const struct endpoint *endpoint, bool answered,
                                     u64 *split)
{
    struct address address = *endpoint->address;
    u8 family = ctx->packet->family;

    if (family == FAMILY_V6 && extract_ipv4(&address))
        family = FAMILY_V4;
    /* From here, the verifier follows one path for all kinds of addresses. */
    family = hide_from_verifier(ctx->packet, family);
    address.half[0] = hide_from_verifier(ctx->packet, address.half[0]);
    address.half[1] = hide_from_verifier(ctx->packet, address.half[1]);

    struct subnet_key key = {
        .prefix = masked(&address, mask_of(family)),
        .interface = ctx->interface,
        .family = family,
        .side = endpoint->side,
    };

    *split = 0;
#if NETWORKS
    const struct network *network = find_network(&address, family);

    if (network) {
        *split = network->flags;
        if (network->number) {
            key.prefix = (struct address){.half = {network->number}};
            key.family = FAMILY_NAMED;
        }
    }
#endif

    u32 *slot = subnets.lookup(&key);

    return slot ? *slot : claim_slot(ctx, &key, answered);
}

static __always_inline u32 slot_of(const struct context *ctx, const struct endpoint *endpoint, bool answered)
{
    u64 split;

    return find_slot(ctx, endpoint, answered, &split);
}
