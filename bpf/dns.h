/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Method dns measures the time from a query over UDP to the response with the same transaction identifier (RFC 1035
 * section 4.1.1). The RTT includes the time that the server needs to answer. Before a resolver answers, it may send
 * many queries to other servers.
 */
#pragma once

#include "transaction.h"

#define DNS_PORT 53

static __always_inline void dns(struct context *ctx)
{
    const struct packet *packet = ctx->packet;
    bool to_server = packet->destination_port == __cpu_to_be16(DNS_PORT);
    u64 head = __be64_to_cpu(packet->udp_head);
    u32 transaction = head >> 48;
    bool is_response = head >> 47 & 1; /* the QR bit, which is the bit after the identifier */

    if (!to_server && packet->source_port != __cpu_to_be16(DNS_PORT))
        return;
    cold();
    /* The payload is too short, or is not a query. The first 8 bytes of a query contain the number of questions, which
     * is at least 1. */
    if (!head)
        return;

    if (to_server && !is_response)
        begin_transaction(ctx, METHOD_DNS, transaction, COPY_NS, false);
    else if (packet->source_port == __cpu_to_be16(DNS_PORT) && is_response)
        complete_transaction(ctx, METHOD_DNS, transaction);
}
