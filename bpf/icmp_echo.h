/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Method icmp_echo measures the time from an echo request to the reply with the same identifier and sequence number
 * (RFC 792, RFC 4443).
 */
#pragma once

#include "transaction.h"

static __always_inline void icmp_echo(struct context *ctx)
{
    cold();
    const struct packet *packet = ctx->packet;

    if (packet->echo == ECHO_REQUEST)
        begin_transaction(ctx, METHOD_ICMP_ECHO, packet->echo_sequence, COPY_NS, false);
    else if (packet->echo == ECHO_REPLY)
        complete_transaction(ctx, METHOD_ICMP_ECHO, packet->echo_sequence);
}
