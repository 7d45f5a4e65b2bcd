/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Method tcp_handshake: from a SYN to its SYN-ACK, for the server's subnet, and from the SYN-ACK to its ACK, for the
 * client's (RFC 9293 section 3.5). A SYN waits among the exchanges, and begins no flow, so that a flood of them finds
 * nothing to push out but other SYNs. A SYN or SYN-ACK that is sent again is never timed (Karn's rule).
 */
#pragma once

#include "transaction.h"

static __always_inline void time_accept(struct observation *seen)
{
    const struct packet *packet = seen->packet;
    struct half_flow *server = seen->flow.sender;
    u32 next = packet->seq + 1 + packet->payload;
    u64 last = packet->answers - 1ULL;

    if (server->accepted_seq == next) {
        if (server->accepted_ns && precise_now(seen->skb) - server->accepted_ns <= COPY_NS)
            return;
        seen->counters->rtt_repeated += server->accepted_ns != 0;
        server->accepted_ns = 0;
        return;
    }
    seen->counters->rtt_abandoned += server->accepted_ns != 0; /* another connection begins */
    server->accepted_seq = next;
    server->accepted_ns = precise_now(seen->skb);
    /* If this packet answers a SYN, that came last; before it may be an RTT of another method. */
    seen->flow.flow->syn_ns = 0;
    if (last < RTTS_OF_A_PACKET && packet->ended[last].method == METHOD_TCP_HANDSHAKE)
        seen->flow.flow->syn_ns = packet->ended[last].asked_ns;
    seen->flow.flow->handshake_ns = 0;
    seen->counters->rtt_begun++;
}

static __always_inline void match_accept(struct observation *seen)
{
    struct half_flow *server = seen->flow.receiver;
    u64 sent_ns = server->accepted_ns;

    if (!sent_ns)
        return;
    rare();
    server->accepted_ns = 0;
    if (seen->packet->ack_seq != server->accepted_seq) {
        seen->counters->rtt_superseded++; /* the ACK that answered was lost before it came here */
        return;
    }
    answers(seen, METHOD_TCP_HANDSHAKE, sent_ns);
    /* Captures aren't always in the order of time. */
    if (seen->flow.flow->syn_ns && precise_now(seen->skb) > seen->flow.flow->syn_ns)
        seen->flow.flow->handshake_ns = precise_now(seen->skb) - seen->flow.flow->syn_ns;
}

static __always_inline void tcp_handshake(struct observation *seen, bool plain)
{
    const struct packet *packet = seen->packet;

    switch (flags_of(packet, plain) & (TCP_SYN | TCP_ACK | TCP_RST)) {
    case TCP_SYN:
        ask(seen, METHOD_TCP_HANDSHAKE, packet->seq + 1, COPY_NS, true);
        /* A server with TCP Fast Open acknowledges the payload of a SYN, or refuses it (RFC 7413 section 4.2.2). */
        if (packet->payload) {
            rare();
            add_alias(seen, METHOD_TCP_HANDSHAKE, packet->seq + 1 + packet->payload, packet->seq + 1);
        }
        break;
    case TCP_SYN | TCP_ACK:
        answer(seen, METHOD_TCP_HANDSHAKE, packet->ack_seq);
        if (seen->has_flow)
            time_accept(seen);
        break;
    case TCP_ACK:
        if (seen->has_flow)
            match_accept(seen);
        break;
    }
}
