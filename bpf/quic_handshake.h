/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Method quic_handshake measures the time from a client's first Initial packet to the server's first packet with a long
 * header. The method supports QUIC versions 1 and 2 (RFC 9000 section 17.2, RFC 9369 section 3.2). An observer cannot
 * measure RTTs in the rest of the connection, because packet numbers are encrypted, and hardly any endpoint sets the
 * spin bit.
 */
#pragma once

#include "transaction.h"

#define QUIC_LONG_HEADER 0xc0 /* both bits are 1 in a long header: the header form bit and the fixed bit */
#define QUIC_TYPE 0x30
#define QUIC_V1 0x00000001
#define QUIC_V1_INITIAL 0x00
#define QUIC_V2 0x6b3343cf
#define QUIC_V2_INITIAL 0x10
/*
 * A ClientHello may take two packets. A client sends both packets within QUIC_FLIGHT_NS. A client repeats a lost packet
 * only after 1 s (RFC 9002 section 6.2.2).
 */
#define QUIC_FLIGHT_NS 200000000

static __always_inline void quic_handshake(struct context *ctx)
{
    u64 head = __be64_to_cpu(ctx->packet->udp_head);
    u8 first = head >> 56;
    u32 version = head >> 24;

    if ((first & QUIC_LONG_HEADER) != QUIC_LONG_HEADER || (version != QUIC_V1 && version != QUIC_V2))
        return;
    cold();
    if (complete_transaction(ctx, METHOD_QUIC_HANDSHAKE, 0))
        return;
    if ((first & QUIC_TYPE) == (version == QUIC_V1 ? QUIC_V1_INITIAL : QUIC_V2_INITIAL))
        begin_transaction(ctx, METHOD_QUIC_HANDSHAKE, 0, QUIC_FLIGHT_NS, false);
}
