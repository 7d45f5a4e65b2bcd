/* SPDX-License-Identifier: GPL-2.0-only */
/* Parses the timestamp option of TCP. */
#pragma once

#include "packet.h"

#define TCPOPT_EOL 0
#define TCPOPT_NOP 1
#define TCPOPT_TIMESTAMP 8
#define TCPOLEN_TIMESTAMP 10
#define MAX_OPTIONS 40
/*
 * The options of almost all segments begin with these bytes: two NOPs, then the kind and the length of the timestamp
 * option (RFC 7323 appendix A).
 */
#define NOP_NOP_TIMESTAMP __cpu_to_be32(0x0101080a)
#define OPTIONS_BEFORE_TIMESTAMP (MAX_OPTIONS - TCPOLEN_TIMESTAMP)

/*
 * Finds the timestamp option (RFC 7323 section 3.2). If the list of options is malformed, the search ends, as in the
 * kernel's tcp_parse_options(), and the segment counts as a segment without a timestamp.
 *
 * The loop does not jump from option to option. Instead, the loop reads each byte, and also skips other options byte by
 * byte. So the verifier knows the offset in each iteration, and processes hundreds of instructions instead of a
 * million. Usually the timestamp option follows two NOPs and begins at the third byte.
 */
static __always_inline void parse_timestamp(u8 *options, u64 length, void *end, struct packet *packet)
{
    const __be32 *words = (void *)options;
    u8 skip = 0;

    if (length >= 12 && (void *)(words + 3) <= end && words[0] == NOP_NOP_TIMESTAMP) {
        packet->tsval = __be32_to_cpu(words[1]);
        packet->tsecr = __be32_to_cpu(words[2]);
        packet->has_timestamp = true;
        return;
    }
    for (u32 i = 0; i <= OPTIONS_BEFORE_TIMESTAMP; i++) {
        __be32 *values = (void *)options + i + 2;

        /* The rest of the options is too short for a timestamp. */
        if (i + TCPOLEN_TIMESTAMP > length || (void *)options + i + TCPOLEN_TIMESTAMP > end)
            return;
        if (skip) {
            skip--;
            continue;
        }
        if (options[i] == TCPOPT_NOP)
            continue;
        if (options[i] == TCPOPT_EOL || options[i + 1] == 1)
            return;
        if (options[i] == TCPOPT_TIMESTAMP && options[i + 1] == TCPOLEN_TIMESTAMP) {
            packet->tsval = __be32_to_cpu(values[0]);
            packet->tsecr = __be32_to_cpu(values[1]);
            packet->has_timestamp = true;
            return;
        }
        skip = options[i + 1] - 1; /* an option length of 0 is malformed: skip becomes 255, which ends the search */
    }
}
