/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Method tcp_handshake measures two RTTs (RFC 9293 section 3.5). The time from a SYN to its SYN-ACK counts for the
 * server's subnet. The time from the SYN-ACK to its ACK counts for the client's subnet. A SYN waits in the map of
 * transactions and does not create a flow. So a SYN flood evicts only requests from the map of transactions, and does
 * not evict flows. If a SYN or SYN-ACK is retransmitted, the RTT of the retransmitted packet is not measured (Karn's
 * rule).
 */
#pragma once

#include "flow.h"
#include "transaction.h"

/* Starts the RTT sample from a SYN-ACK to its ACK. If the SYN-ACK is retransmitted, drops the sample. */
static __always_inline void time_syn_ack(const struct context *ctx)
{
    const struct packet *packet = ctx->packet;
    struct half_flow *server = ctx->sender;
    u32 end = packet->seq + 1 + packet->payload;
    u64 last = packet->rtt_count - 1ULL;

    if (server->syn_ack_end == end) {
        if (server->syn_ack_ns && precise_now(ctx->skb) - server->syn_ack_ns <= COPY_NS)
            return;
        ctx->counters->rtt_repeated += server->syn_ack_ns != 0;
        server->syn_ack_ns = 0;
        return;
    }
    ctx->counters->rtt_abandoned += server->syn_ack_ns != 0; /* another connection begins before the ACK arrives */
    server->syn_ack_end = end;
    server->syn_ack_ns = precise_now(ctx->skb);
    /* If this packet answers a SYN, the last RTT in the array is the RTT from the SYN to this packet. An RTT of another
     * method may be before this RTT in the array. */
    ctx->flow->syn_ns = 0;
    if (last < MAX_RTTS_PER_PACKET && packet->rtts[last].method == METHOD_TCP_HANDSHAKE)
        ctx->flow->syn_ns = packet->rtts[last].sent_ns;
    ctx->flow->handshake_ns = 0;
    ctx->counters->rtt_begun++;
}

static __always_inline void match_handshake_ack(struct context *ctx)
{
    struct half_flow *server = ctx->receiver;
    u64 sent_ns = server->syn_ack_ns;

    if (!sent_ns)
        return;
    cold();
    server->syn_ack_ns = 0;
    if (ctx->packet->ack_seq != server->syn_ack_end) {
        ctx->counters->rtt_superseded++; /* the program has not seen the ACK of the SYN-ACK */
        return;
    }
    add_rtt(ctx, METHOD_TCP_HANDSHAKE, sent_ns);
    /* Packets of a capture are not always in order. */
    if (ctx->flow->syn_ns && precise_now(ctx->skb) > ctx->flow->syn_ns)
        ctx->flow->handshake_ns = precise_now(ctx->skb) - ctx->flow->syn_ns;
}

static __always_inline void tcp_handshake(struct context *ctx)
{
    const struct packet *packet = ctx->packet;

    switch (flags_of(ctx) & (TCP_SYN | TCP_ACK | TCP_RST)) {
    case TCP_SYN:
        begin_transaction(ctx, METHOD_TCP_HANDSHAKE, packet->seq + 1, COPY_NS, true);
        /* With TCP Fast Open, the SYN-ACK either acknowledges the payload of the SYN, or acknowledges only the SYN (RFC
         * 7413 section 4.2.2). */
        if (packet->payload) {
            cold();
            add_transaction_alias(ctx, METHOD_TCP_HANDSHAKE, packet->seq + 1 + packet->payload, packet->seq + 1);
        }
        break;
    case TCP_SYN | TCP_ACK:
        complete_transaction(ctx, METHOD_TCP_HANDSHAKE, packet->ack_seq);
        if (ctx->has_flow)
            time_syn_ack(ctx);
        break;
    case TCP_ACK:
        if (ctx->has_flow)
            match_handshake_ack(ctx);
        break;
    }
}
