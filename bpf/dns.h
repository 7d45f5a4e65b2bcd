/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Method dns: from a query over UDP to the response with its transaction identifier (RFC 1035 section 4.1.1). It has
 * the server's own time in it, which for a resolver may be that of many more queries.
 */
#pragma once

#include "transaction.h"

#define DNS_PORT 53

static __always_inline void dns(struct observation *seen)
{
    const struct packet *packet = seen->packet;
    bool to_server = packet->destination_port == __cpu_to_be16(DNS_PORT);
    u64 head = __be64_to_cpu(packet->udp_head);
    u32 transaction = head >> 48;
    bool is_response = head >> 47 & 1; /* the bit QR, which follows the identifier */

    if (!to_server && packet->source_port != __cpu_to_be16(DNS_PORT))
        return;
    rare();
    if (!head) /* cut short, or nothing is asked: there would be a count of questions */
        return;

    if (to_server && !is_response)
        ask(seen, METHOD_DNS, transaction, COPY_NS, false);
    else if (packet->source_port == __cpu_to_be16(DNS_PORT) && is_response)
        answer(seen, METHOD_DNS, transaction);
}
