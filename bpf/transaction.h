/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A transaction is one request and one reply with the same identifier. Requests wait for replies in an LRU hash map
 * that is separate from the flow table, so that a flood of requests does not evict established TCP flows.
 *
 * If a request is sent again before the reply arrives, no RTT is measured, because the reply may answer either of the
 * two requests (Karn's rule, RFC 6298 section 3). But two requests within `grace_ns` count as one request. A request
 * with the identifier of a completed transaction is a repetition if it is sent at most MAX_AGE_NS after the first
 * request. If identifiers are unique (never reused), such a request is a repetition at any time.
 *
 * Benign race: two CPUs may process the same request, or two replies to one request, at the same time. At worst the
 * program does not recognize a repetition, or counts an RTT twice.
 */
#pragma once

#include "clock.h"
#include "context.h"

/*
 * If the same request arrives again within COPY_NS, the second packet is not a retransmission. Either the second packet
 * is a copy of the first packet, or the network delivered the packet twice. The shortest retransmission timeout is
 * 200 ms in Linux, and 1 s in RFC 6298.
 */
#define COPY_NS 20000000

/*
 * Returns whether an endpoint of the packet is external. The endpoint is the source if `is_source` is true, and
 * otherwise the destination. If a packet arrives and then leaves through the same interface, the result is different on
 * arrival and on departure. In a capture, the sides are unknown. The result is then 0, because both directions must
 * have the same key.
 */
static __always_inline u8 is_external(bool is_source, u32 source_side)
{
    /* This expression has the value of is_source == (source_side == SIDE_EXTERNAL), or 0 for SIDE_UNKNOWN. A branch
     * instead of the expression would double the verifier's work. */
    return (is_source ^ source_side) & 1 & ~(source_side >> 1);
}

enum transaction_state { TRANSACTION_OPEN, TRANSACTION_REPEATED, TRANSACTION_COMPLETED, TRANSACTION_ALIAS };

static __always_inline struct transaction_key transaction_key_of(const struct context *ctx, enum method method,
                                                                 u32 identifier, bool is_request)
{
    const struct packet *packet = ctx->packet;

    return (struct transaction_key){
        .client = is_request ? packet->source : packet->destination,
        .server = is_request ? packet->destination : packet->source,
        .client_port = is_request ? packet->source_port : packet->destination_port,
        .server_port = is_request ? packet->destination_port : packet->source_port,
        .identifier = identifier,
        .interface = ctx->interface,
        .family = packet->family,
        .method = method,
        .client_external = is_external(is_request, ctx->source.side),
    };
}

/* Called for a packet that is a request. */
static __always_inline void begin_transaction(const struct context *ctx, enum method method, u32 identifier,
                                              u64 grace_ns, bool is_unique)
{
    struct transaction_key key = transaction_key_of(ctx, method, identifier, true);
    struct transaction fresh = {.sent_ns = precise_now(ctx->skb), .state = TRANSACTION_OPEN};
    struct transaction *transaction = transactions.lookup(&key);

    if (PACKET_CLOCK && !fresh.sent_ns) /* some packets of a capture have no time */
        return;
    if (transaction && (is_unique || fresh.sent_ns - transaction->sent_ns <= MAX_AGE_NS)) {
        if (transaction->state == TRANSACTION_OPEN && fresh.sent_ns - transaction->sent_ns > grace_ns) {
            transaction->state = TRANSACTION_REPEATED;
            ctx->counters->rtt_repeated++;
        }
        return;
    }
    if (transaction && transaction->state == TRANSACTION_OPEN)
        ctx->counters->rtt_expired++;
    transactions.update(&key, &fresh);
    ctx->counters->rtt_begun++;
}

/* Adds another identifier to the request `alias_of`. A reply with the new `identifier` also answers this request. */
static __always_inline void add_transaction_alias(const struct context *ctx, enum method method, u32 identifier,
                                                  u32 alias_of)
{
    struct transaction_key key = transaction_key_of(ctx, method, identifier, true);
    struct transaction alias = {.state = TRANSACTION_ALIAS, .alias_of = alias_of};

    transactions.insert(&key, &alias);
}

/*
 * Called for a packet that may be a reply. Returns true if the request of this packet is in the map, even if the
 * program does not measure an RTT.
 */
static __always_inline bool complete_transaction(struct context *ctx, enum method method, u32 identifier)
{
    struct transaction_key key = transaction_key_of(ctx, method, identifier, false);
    struct transaction *transaction = transactions.lookup(&key);

    if (transaction && transaction->state == TRANSACTION_ALIAS) {
        key.identifier = transaction->alias_of;
        transaction = transactions.lookup(&key);
    }
    if (!transaction || (PACKET_CLOCK && !packet_time(ctx->skb)))
        return false;
    if (transaction->state == TRANSACTION_OPEN) {
        transaction->state = TRANSACTION_COMPLETED;
        add_rtt(ctx, method, transaction->sent_ns);
    }
    return true;
}
