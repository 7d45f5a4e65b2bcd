/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copies of packets. A capture of several interfaces, and a mirror port, show a packet at two places on its way. The
 * first is measured, and the second counted as a duplicate. It has the same transport header and the same
 * identification in the IPv4 header. TTL, link header and ECN may have changed on the way.
 *
 * A segment that was sent again can have the same headers, if its sender gives no identification (IPv6, RFC 6864). Then
 * only time tells the two apart. Who sends again has heard from the receiver, or waited for it: that takes an RTT.
 */
#pragma once

#include "transaction.h"

#if COPIES

/* More than pass in COPY_NS at a million packets a second. */
#define RECENT_BITS 15
#define RECENT_PACKETS (1 << RECENT_BITS)

/* A copy may come this late whatever the RTT of its flow is: with an identification, and without. */
#define COPY_WITH_ID_NS 1000000
#define COPY_WITHOUT_ID_NS 100000

/* A packet, by the hash of all that its copy shares with it. */
struct recent {
    u64 mark;
    u64 seen_ns;
    u32 acked; /* of the receiver, and how often it said so again */
    u32 duplicates;
};

/* Shared by all CPUs: a race makes a copy a packet that was sent again, as without this table. Benign. */
BPF_F_TABLE("array", u32, struct recent, recent_packets, RECENT_PACKETS, BPF_F_MMAPABLE);

/* Only what a packet of this kind has: parse_usual() leaves the rest as it was. */
static __always_inline u64 mark_of(const struct packet *packet, u64 kind)
{
    u64 mark = mix(HASH_KEY, packet->source.half[0]);

    mark = mix(mark, packet->source.half[1]);
    mark = mix(mark, packet->destination.half[0]);
    mark = mix(mark, packet->destination.half[1]);
    mark = mix(mark, (u64)packet->source_port << 48 | (u64)packet->destination_port << 32 | packet->payload);
    mark = mix(mark, (u64)packet->identification << 48 | (u64)packet->checksum << 32 | packet->protocol);
    if (kind == KIND_UDP)
        return mix(mark, packet->udp_head);
    if (kind == KIND_ICMP)
        return mix(mark, (u64)packet->sequence << 8 | packet->echo);
    mark = mix(mark, (u64)packet->seq << 32 | packet->ack_seq);
    mark = mix(mark, (u64)packet->window << 16 | packet->tcp_flags);
    return packet->has_timestamp ? mix(mark, (u64)packet->tsval << 32 | packet->tsecr) : mark;
}

/*
 * Whether nothing but time tells a copy of this segment from another one that is the same. Two acknowledgements may be
 * the same and mean two segments (RFC 5681 section 4.2). So may two RSTs.
 */
static __always_inline bool may_be_said_twice(const struct packet *packet)
{
    return !packet->identification && !packet->payload && !(packet->tcp_flags & (TCP_SYN | TCP_FIN));
}

static __always_inline u64 segment_copied_within(const struct observation *seen, const struct recent *recent)
{
    const struct packet *packet = seen->packet;
    const struct half_flow *receiver = seen->flow.receiver;
    u64 within_ns = packet->identification ? COPY_WITH_ID_NS : COPY_WITHOUT_ID_NS;

    /* Where other segments are copied, they are, too. */
    if (may_be_said_twice(packet) && !(seen->has_flow && seen->flow.flow->copied))
        return 0;
    if (!seen->has_flow || packet->tcp_flags & TCP_SYN)
        return COPY_NS;
    /* Asked for by duplicate acknowledgements in between. */
    if (is_asked_for(&seen->flow, packet->seq) &&
        (receiver->acked != recent->acked || receiver->duplicates != recent->duplicates))
        return 0;
    if (seen->flow.flow->handshake_ns / 2 > within_ns)
        within_ns = seen->flow.flow->handshake_ns / 2;
    return within_ns < COPY_NS ? within_ns : COPY_NS;
}

/*
 * How soon after a packet an equal one is its copy, in ns; 0: it is no copy. Of a datagram only the first bytes are
 * read, and its checksum may not be filled in yet; so it needs an identification, or to be a question with one of its
 * own.
 */
static __always_inline u64 copied_within(const struct observation *seen, u64 kind, const struct recent *recent)
{
    const struct packet *packet = seen->packet;

    if (kind == KIND_TCP)
        return segment_copied_within(seen, recent);
    if (packet->identification || (kind == KIND_ICMP && packet->echo))
        return COPY_WITH_ID_NS;
    return packet->source_port == __cpu_to_be16(DNS_PORT) || packet->destination_port == __cpu_to_be16(DNS_PORT)
               ? COPY_WITH_ID_NS
               : 0;
}

/* Whether this packet was seen before on its way. If not, it is remembered. */
static __always_inline bool is_copy(const struct observation *seen, u64 kind)
{
    u64 now_ns = precise_now(seen->skb), mark;
    struct recent *recent;
    u32 row;

    if (!now_ns || (kind != KIND_TCP && kind != KIND_UDP && kind != KIND_ICMP))
        return false;
    mark = mark_of(seen->packet, kind);
    row = mark >> (64 - RECENT_BITS); /* the high bits of a product depend on all of its factors */
    recent = recent_packets.lookup(&row);
    if (!recent)
        return false;
    if (recent->mark == mark) {
        u64 within_ns = copied_within(seen, kind, recent);

        /* Unsigned: in a capture, time may go back, and what comes earlier is no copy. */
        if (within_ns && now_ns - recent->seen_ns <= within_ns) {
            if (kind == KIND_TCP && may_be_said_twice(seen->packet))
                recent->mark = 0; /* the next one is not of this one */
            else if (seen->has_flow)
                seen->flow.flow->copied = 1;
            return true;
        }
    }
    recent->mark = mark;
    recent->seen_ns = now_ns;
    if (seen->has_flow) {
        recent->acked = seen->flow.receiver->acked;
        recent->duplicates = seen->flow.receiver->duplicates;
    }
    return false;
}

#endif
