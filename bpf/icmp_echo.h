/* SPDX-License-Identifier: GPL-2.0-only */
/* Method icmp_echo: from an echo request to the reply with its identifier and sequence number (RFC 792, RFC 4443). */
#pragma once

#include "transaction.h"

static __always_inline void icmp_echo(struct observation *seen)
{
    rare();
    const struct packet *packet = seen->packet;

    if (packet->echo == ECHO_REQUEST)
        ask(seen, METHOD_ICMP_ECHO, packet->sequence, COPY_NS, false);
    else if (packet->echo == ECHO_REPLY)
        answer(seen, METHOD_ICMP_ECHO, packet->sequence);
}
