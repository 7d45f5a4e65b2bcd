/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The table of TCP flows: a set-associative array, like a CPU's cache. The hash of a flow selects a set of FLOW_WAYS
 * rows. The hash also selects which row of this set the program checks first. Most flows are in the row that is checked
 * first. To find a flow in this row, the program reads only the cache line with the tags of the set and the cache lines
 * of the flow itself, and calls no function. A look-up in a hash map of the kernel makes two calls and reads one more
 * cache line, and all cache lines that the look-up reads are in different pages (docs/performance.md).
 *
 * The program takes a lock only to assign a row to another flow. Two kinds of flows are evicted first: closed flows and
 * unanswered flows. In an unanswered flow, only one endpoint has sent packets. Among the closed and unanswered flows,
 * the program evicts the flow whose last packet is the oldest. So a flood of unanswered packets evicts unanswered
 * flows. A flow in which both endpoints have sent packets keeps its row for FLOW_PROTECTED_NS after its last packet. If
 * all flows of a set are protected, a new flow gets no row, and flow_insert_failed counts the new flow. So if there are
 * too many flows, the program measures some flows instead of no flow.
 */
#pragma once

#include "clock.h"
#include "flow_maps.h"
#include "hash.h"

#define FLOW_PROTECTED_NS 1000000000ULL

/* The bits of a tag that are not bits of the hash. */
#define TAG_IN_USE 1
#define TAG_BIDIRECTIONAL 2 /* both endpoints have sent packets */
#define TAG_HASH_BITS 2     /* number of the first bit that comes from the hash */
/* The highest bits of a tag are the number of the row that is checked first. */
#define TAG_WAY_SHIFT 28

_Static_assert(FLOW_WAYS == 1 << (32 - TAG_WAY_SHIFT), "the highest bits of a tag are a row");
_Static_assert(MAX_OUTSTANDING == 4, "pending_count() adds up four bits");

/* Returns the number of segments of an endpoint that wait for their reply. */
static __always_inline u64 pending_count(const struct half_flow *half)
{
    u64 pending = half->pending;

    return (pending & 1) + (pending >> 1 & 1) + (pending >> 2 & 1) + (pending >> 3 & 1);
}

/* The set and the tag of a flow. The flow need not be in the table. */
struct flow_place {
    u32 set;
    u32 tag;
};

/* Returns the 64-bit word after the addresses in a key. The word contains the ports, the interface and the family. */
static __always_inline u64 ports_word(const struct flow_key *key)
{
    u64 word;

    __builtin_memcpy(&word, &key->internal_port, sizeof(word));
    return word;
}

static __always_inline struct flow_place place_of_key(const struct flow_key *key)
{
    u64 hash = mix(HASH_KEY, key->internal.half[0]);

    hash = mix(hash, key->internal.half[1]);
    hash = mix(hash, key->external.half[0]);
    hash = mix(hash, key->external.half[1]);
    hash = mix(hash, ports_word(key));
    hash = mix(hash, 0);
    return (struct flow_place){
        .set = ((hash >> 32) * FLOW_SETS) >> 32,
        .tag = (u32)hash << TAG_HASH_BITS | TAG_IN_USE,
    };
}

static __always_inline u64 first_way(struct flow_place place)
{
    return bounded(place.tag >> TAG_WAY_SHIFT, FLOW_WAYS);
}

static __always_inline struct flow *flow_at(u32 set, u32 way)
{
    u32 row = set * FLOW_WAYS + way;

    return flows.lookup(&row);
}

static __always_inline bool has_key(const struct flow *flow, const struct flow_key *key)
{
    return flow->key.internal.half[1] == key->internal.half[1] && ports_word(&flow->key) == ports_word(key) &&
           flow->key.external.half[1] == key->external.half[1] && flow->key.internal.half[0] == key->internal.half[0] &&
           flow->key.external.half[0] == key->external.half[0];
}

/*
 * Returns the flow with this key, or NULL. If the flow is not in the row that is checked first, the program compares
 * the tags of all rows of the set. All tags of a set are in one cache line. The program reads only the row whose tag
 * matches. The tags of all sets take 1/80 of the memory of the rows, so the tags may fit into a CPU's cache.
 */
static __always_inline struct flow *lookup_flow(const struct flow_key *key, struct flow_place place)
{
    struct flow_set *set = flow_sets_row(place.set);
    u64 way = first_way(place);

    if ((set->tags[way] & ~TAG_BIDIRECTIONAL) != place.tag) {
        cold();
        way = FLOW_WAYS;
#pragma clang loop unroll(full)
        for (u32 i = 0; i < FLOW_WAYS; i++)
            if ((set->tags[i] & ~TAG_BIDIRECTIONAL) == place.tag)
                way = i;

        u64 found = way;

        barrier_var(found);
        if (found == FLOW_WAYS)
            return 0;
    }

    struct flow *flow = flow_at(place.set, way);

    return flow && has_key(flow, key) ? flow : 0;
}

/*
 * Returns the row of a set that a new flow gets, or FLOW_WAYS if no flow may be evicted. The first choice is a row that
 * already has the tag of the new flow, so that all rows of a set have different tags. The second choice is a free row.
 */
static __always_inline u64 way_to_evict(const struct flow_set *set, struct flow_place place, u64 now_ns)
{
    u64 way = FLOW_WAYS, lowest = ~0ULL;

#pragma clang loop unroll(disable)
    for (u32 i = 0; i < FLOW_WAYS; i++) {
        u64 at = bounded((first_way(place) + i) & (FLOW_WAYS - 1), FLOW_WAYS);
        u32 tag = set->tags[at];
        struct flow *flow = flow_at(place.set, at);
        u64 rank;

        if (!flow)
            break;
        if ((tag & ~TAG_BIDIRECTIONAL) == place.tag)
            rank = 0;
        else if (!tag)
            rank = 1;
        else /* the highest bit is set for flows that may be protected, so the program chooses these flows last */
            rank = (flow->last_ns ?: now_ns) | (u64)(tag & TAG_BIDIRECTIONAL) << 62;
        if (rank < lowest) {
            lowest = rank;
            way = at;
        }
    }
    if (lowest >> 63 && (s64)(now_ns - (lowest & ~(1ULL << 63))) < (s64)FLOW_PROTECTED_NS)
        return FLOW_WAYS;
    barrier_var(way);
    return way;
}

/*
 * Writes a new flow into a row. Another CPU must not find the row before the row is complete, so the ports and the
 * family in the row's key are 0 until then. The atomic exchanges are full memory barriers.
 *
 * Benign race: a CPU that found the old flow in this row a few nanoseconds earlier may still write a slot, or the state
 * of the old flow's sender, into the new flow. At worst one RTT of the new flow is lost or wrong, or some packets of
 * the new flow count for the old flow's subnet. The race is rare, because the old flow was unanswered, or had no
 * packets for a long time.
 *
 * The segments of the old flow that wait for a reply count as abandoned RTT samples of the new flow's interface.
 */
static __always_inline void init_flow(struct flow *flow, const struct flow_key *key,
                                      struct interface_counters *counters)
{
    u64 *ports = (void *)&flow->key.internal_port;

    counters->rtt_abandoned += pending_count(&flow->half[0]) + pending_count(&flow->half[1]) +
                               (flow->half[0].syn_ack_ns != 0) + (flow->half[1].syn_ack_ns != 0);

    __sync_lock_test_and_set(ports, 0);
    __builtin_memset(&flow->key + 1, 0, sizeof(*flow) - sizeof(flow->key));
    flow->key.internal = key->internal;
    flow->key.external = key->external;
    __sync_lock_test_and_set(ports, ports_word(key));
}

/* Assigns a row to a flow that is not in the table. Returns the flow, or NULL if the flow gets no row. */
static __always_inline struct flow *insert_flow(const struct flow_key *key, struct flow_place place, u64 now_ns,
                                                struct interface_counters *counters)
{
    struct flow_set *set = flow_sets_row(place.set);
    u64 *lock = flow_locks.lookup(&place.set);
    struct flow *flow = 0;

    /* If the lock is taken, another CPU is assigning a row of this set, most likely to the same flow. The flow's next
     * packet then finds the flow in the table. */
    if (!lock || __sync_lock_test_and_set(lock, 1)) {
        counters->flow_insert_failed++;
        return 0;
    }

    u64 way = way_to_evict(set, place, now_ns);

    if (way < FLOW_WAYS)
        flow = flow_at(place.set, way);
    if (!flow) {
        counters->flow_insert_failed++;
    } else if (!has_key(flow, key)) {
        init_flow(flow, key, counters);
        set->tags[bounded(way, FLOW_WAYS)] = place.tag;
        counters->flows_created++;
    }
    __sync_lock_test_and_set(lock, 0);
    return flow;
}

/*
 * Marks a flow in the table as protected from eviction, or as no longer protected.
 *
 * Benign race: a few nanoseconds pass between the load of the tag and the store of the new tag. Between the load and
 * the store, another CPU may assign the row to a new flow. At worst the program does not find the new flow in its row,
 * and assigns another row to the flow.
 */
static __always_inline void mark_bidirectional(struct flow_place place, bool bidirectional)
{
    struct flow_set *set = flow_sets_row(place.set);

#pragma clang loop unroll(disable)
    for (u32 i = 0; i < FLOW_WAYS; i++)
        if ((set->tags[i] & ~TAG_BIDIRECTIONAL) == place.tag)
            set->tags[i] = bidirectional ? place.tag | TAG_BIDIRECTIONAL : place.tag;
}
