/* SPDX-License-Identifier: GPL-2.0-only */
/* Method icmp_echo: from an echo request to the reply with its identifier and sequence number (RFC 792, RFC 4443). */
#pragma once

#include "exchange.h"

#define ICMP_ECHO_REPLY 0
#define ICMP_ECHO_REQUEST 8
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129

static __always_inline void icmp_echo(struct observation *seen)
{
    const struct packet *packet = &seen->packet;
    bool v4 = packet->family == FAMILY_V4;

    if (packet->icmp_type == (v4 ? ICMP_ECHO_REQUEST : ICMPV6_ECHO_REQUEST))
        ask(seen, METHOD_ICMP_ECHO, packet->icmp_identifier, 0);
    else if (packet->icmp_type == (v4 ? ICMP_ECHO_REPLY : ICMPV6_ECHO_REPLY))
        answer(seen, METHOD_ICMP_ECHO, packet->icmp_identifier);
}
