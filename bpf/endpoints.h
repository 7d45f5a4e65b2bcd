/* SPDX-License-Identifier: GPL-2.0-only */
/* Which endpoint of a packet is which, in what both directions share: the internal one is first, the external second.
 */
#pragma once

#include "maps.h"
#include "packet.h"

/* In which of the two places the source is. In a capture sides are unknown, and any order will do. */
static __always_inline u64 place_of_source(const struct packet *packet, u32 source_side)
{
    if (source_side != SIDE_UNKNOWN)
        return source_side == SIDE_EXTERNAL;
    rare();
    if (packet->source.half[0] != packet->destination.half[0])
        return packet->source.half[0] > packet->destination.half[0];
    if (packet->source.half[1] != packet->destination.half[1])
        return packet->source.half[1] > packet->destination.half[1];
    return packet->source_port > packet->destination_port;
}
