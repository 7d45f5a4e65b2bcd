/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The table of TCP flows: an array, in which a flow has its place in one of the FLOW_WAYS rows of a set, as a line of
 * memory has in a cache. Its hash tells which set, and in which row to look first: there most flows are, so that
 * finding one costs the line of the set's tags, the lines of the flow itself, and no call. The kernel's own hashes cost
 * a line more, each in another page, and two calls (docs/performance.md).
 *
 * Nothing is locked but the giving away of a row. It is for the flow that was silent for longest, but first of all for
 * one of which only one end was heard, or that is closed: what a flood of strangers pushes out are strangers. A flow
 * that was heard of both ends keeps its row for FLOW_KEPT_NS; where all of a set do, the new one is refused, and
 * counted: of too many flows, some are measured, and not none.
 */
#pragma once

#include "clock.h"
#include "hash.h"
#include "packet.h"

#define FLOW_KEPT_NS 1000000000ULL

/* Bits of a tag beside those of the hash. */
#define TAG_TAKEN 1
#define TAG_ANSWERED 2 /* both ends were heard */
#define TAG_HASH_BITS 2
/* The highest bits of a tag name the row of its set to look in first. */
#define TAG_WAY_SHIFT 28

/* How many segments of an endpoint wait for their reply. */
static __always_inline u64 waiting_of(const struct half_flow *half)
{
    u64 waiting = half->waiting;

    return (waiting & 1) + (waiting >> 1 & 1) + (waiting >> 2 & 1) + (waiting >> 3 & 1);
}

/* Where a flow is, or would be. */
struct flow_place {
    u32 set;
    u32 tag;
};

/* The word of a key behind the addresses. */
static __always_inline u64 ends_of(const struct flow_key *key)
{
    u64 word;

    __builtin_memcpy(&word, &key->internal_port, sizeof(word));
    return word;
}

static __always_inline struct flow_place place_of(const struct flow_key *key)
{
    u64 hash = mix(HASH_KEY, key->internal.half[0]);

    hash = mix(hash, key->internal.half[1]);
    hash = mix(hash, key->external.half[0]);
    hash = mix(hash, key->external.half[1]);
    hash = mix(hash, ends_of(key));
    hash = mix(hash, 0);
    return (struct flow_place){
        .set = ((hash >> 32) * FLOW_SETS) >> 32,
        .tag = (u32)hash << TAG_HASH_BITS | TAG_TAKEN,
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

static __always_inline bool is_of(const struct flow *flow, const struct flow_key *key)
{
    return flow->key.internal.half[1] == key->internal.half[1] && ends_of(&flow->key) == ends_of(key) &&
           flow->key.external.half[1] == key->external.half[1] && flow->key.internal.half[0] == key->internal.half[0] &&
           flow->key.external.half[0] == key->external.half[0];
}

/* All tags are a fiftieth of the rows, so a cache may have them. Who is not where it is looked for first costs one row
 * all the same. */
static __always_inline struct flow *find_in_table(const struct flow_key *key, struct flow_place place)
{
    struct flow_set *set = flow_sets_row(place.set);
    u64 way = first_way(place);

    if ((set->tags[way] & ~TAG_ANSWERED) != place.tag) {
        rare();
        way = FLOW_WAYS;
#pragma clang loop unroll(full)
        for (u32 i = 0; i < FLOW_WAYS; i++)
            if ((set->tags[i] & ~TAG_ANSWERED) == place.tag)
                way = i;
        if (opaque(way) == FLOW_WAYS)
            return 0;
    }

    struct flow *flow = flow_at(place.set, way);

    return flow && is_of(flow, key) ? flow : 0;
}

/*
 * Of the rows of a set the one to give away, or FLOW_WAYS. That of a flow with the same tag, if there is one: there is
 * never more than one of a tag.
 */
static __always_inline u64 way_to_give(const struct flow_set *set, struct flow_place place, u64 now_ns)
{
    u64 way = FLOW_WAYS, least = ~0ULL;

#pragma clang loop unroll(disable)
    for (u32 i = 0; i < FLOW_WAYS; i++) {
        u64 at = bounded((first_way(place) + i) & (FLOW_WAYS - 1), FLOW_WAYS);
        u32 tag = set->tags[at];
        struct flow *flow = flow_at(place.set, at);
        u64 rank;

        if (!flow)
            break;
        if ((tag & ~TAG_ANSWERED) == place.tag)
            rank = 0;
        else if (!tag)
            rank = 1;
        else
            rank = (flow->last_ns ?: now_ns) | (u64)(tag & TAG_ANSWERED) << 62;
        if (rank < least) {
            least = rank;
            way = at;
        }
    }
    if (least >> 63 && (s64)(now_ns - (least & ~(1ULL << 63))) < (s64)FLOW_KEPT_NS)
        return FLOW_WAYS;
    return opaque(way);
}

/*
 * Makes the row that of a new flow. Nobody must find it half written, so its key has no ports and no family meanwhile;
 * an exchange is a full barrier. Who had found the old flow here some nanoseconds before may still write what it sent
 * into the new one, or its subnet's slot. Benign, and rare: that one had been silent for long, or nobody answers it.
 * What waited in the old flow is abandoned, and counted for the interface of the new one.
 */
static __always_inline void begin_flow(struct flow *flow, const struct flow_key *key,
                                       struct interface_counters *counters)
{
    u64 *ends = (void *)&flow->key.internal_port;

    counters->rtt_abandoned += waiting_of(&flow->half[0]) + waiting_of(&flow->half[1]) +
                               (flow->half[0].accepted_ns != 0) + (flow->half[1].accepted_ns != 0);

    __sync_lock_test_and_set(ends, 0);
    __builtin_memset(&flow->key + 1, 0, sizeof(*flow) - sizeof(flow->key));
    flow->key.internal = key->internal;
    flow->key.external = key->external;
    __sync_lock_test_and_set(ends, ends_of(key));
}

/* The row of a flow that has none yet, or 0 if it gets none. */
static __always_inline struct flow *add_to_table(const struct flow_key *key, struct flow_place place, u64 now_ns,
                                                 struct interface_counters *counters)
{
    struct flow_set *set = flow_sets_row(place.set);
    u64 *lock = flow_locks.lookup(&place.set);
    struct flow *flow = 0;

    /* Another CPU gives away a row of the set, most likely to this flow: the next packet will find it. */
    if (!lock || __sync_lock_test_and_set(lock, 1)) {
        counters->flow_insert_failed++;
        return 0;
    }

    u64 way = way_to_give(set, place, now_ns);

    if (way < FLOW_WAYS)
        flow = flow_at(place.set, way);
    if (!flow) {
        counters->flow_insert_failed++;
    } else if (!is_of(flow, key)) {
        begin_flow(flow, key, counters);
        set->tags[bounded(way, FLOW_WAYS)] = place.tag;
        counters->flows_created++;
    }
    __sync_lock_test_and_set(lock, 0);
    return flow;
}

/*
 * Whether a flow that is in the table may keep its row, and isn't the first to be pushed out. If another CPU gives its
 * row away between the look at a tag and the store, the row's new flow isn't found, and gets another: benign, and
 * nanoseconds wide.
 */
static __always_inline void mark_answered(struct flow_place place, bool answered)
{
    struct flow_set *set = flow_sets_row(place.set);

#pragma clang loop unroll(disable)
    for (u32 i = 0; i < FLOW_WAYS; i++)
        if ((set->tags[i] & ~TAG_ANSWERED) == place.tag)
            set->tags[i] = answered ? place.tag | TAG_ANSWERED : place.tag;
}
