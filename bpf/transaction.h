/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For methods in which a packet asks and one other packet answers: both name the same identifier. Questions wait in an
 * LRU hash of their own, so that no flood of them pushes out an established TCP flow.
 *
 * A question that is asked again before its answer is never timed, for nobody can tell which one was answered (Karn's
 * rule, RFC 6298 section 3); within `grace_ns` it is not asked again, but still the same question, in two packets.
 * An answered question stays until it is old: what asks the same once more is no new question. One whose identifier is
 * unique, and not used again for another, never becomes new.
 */
#pragma once

#include "context.h"

/*
 * What asks the same this soon is a copy of the question, or the network delivers it twice. The shortest retransmission
 * timeout is 200 ms as a rule (Linux), 1 s by RFC 6298.
 */
#define COPY_NS 20000000

enum exchange_state { EXCHANGE_OPEN, EXCHANGE_REPEATED, EXCHANGE_ANSWERED, EXCHANGE_ALIAS };

static __always_inline struct exchange_key exchange_of(const struct observation *seen, enum method method,
                                                       u32 identifier, bool source_asks)
{
    const struct packet *packet = seen->packet;

    return (struct exchange_key){
        .asker = source_asks ? packet->source : packet->destination,
        .answerer = source_asks ? packet->destination : packet->source,
        .asker_port = source_asks ? packet->source_port : packet->destination_port,
        .answerer_port = source_asks ? packet->destination_port : packet->source_port,
        .identifier = identifier,
        .interface = seen->interface,
        .family = packet->family,
        .method = method,
        .asker_external = is_external(source_asks, seen->source_side),
    };
}

static __always_inline void ask(struct observation *seen, enum method method, u32 identifier, u64 grace_ns,
                                bool is_unique)
{
    struct exchange_key key = exchange_of(seen, method, identifier, true);
    struct exchange fresh = {.asked_ns = precise_now(seen->skb), .state = EXCHANGE_OPEN};
    struct exchange *exchange = exchanges.lookup(&key);

    if (PACKET_CLOCK && !fresh.asked_ns) /* a packet of a capture without a time */
        return;
    if (exchange && (is_unique || fresh.asked_ns - exchange->asked_ns <= MAX_AGE_NS)) {
        if (exchange->state == EXCHANGE_OPEN && fresh.asked_ns - exchange->asked_ns > grace_ns) {
            exchange->state = EXCHANGE_REPEATED;
            seen->counters->rtt_repeated++;
        }
        return;
    }
    if (exchange && exchange->state == EXCHANGE_OPEN)
        seen->counters->rtt_expired++;
    exchanges.update(&key, &fresh);
    seen->counters->rtt_begun++;
}

/* An answer with this identifier answers the question `asked_as`, too. */
static __always_inline void add_alias(struct observation *seen, enum method method, u32 identifier, u32 asked_as)
{
    struct exchange_key key = exchange_of(seen, method, identifier, true);
    struct exchange alias = {.state = EXCHANGE_ALIAS, .asked_as = asked_as};

    exchanges.insert(&key, &alias);
}

/* Whether this packet answers a question, or might have answered it, had it been timed. */
static __always_inline bool answer(struct observation *seen, enum method method, u32 identifier)
{
    struct exchange_key key = exchange_of(seen, method, identifier, false);
    struct exchange *exchange = exchanges.lookup(&key);

    if (exchange && exchange->state == EXCHANGE_ALIAS) {
        key.identifier = exchange->asked_as;
        exchange = exchanges.lookup(&key);
    }
    if (!exchange || (PACKET_CLOCK && !packet_time(seen->skb)))
        return false;
    if (exchange->state == EXCHANGE_OPEN) {
        exchange->state = EXCHANGE_ANSWERED;
        answers(seen, method, exchange->asked_ns);
    }
    return true;
}
