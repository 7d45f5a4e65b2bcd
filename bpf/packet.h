/* SPDX-License-Identifier: GPL-2.0-only */
/* The few facts of a packet that the rest of the program needs, what it answers, and the means to read it. */
#pragma once

#include "maps.h"

/* A flag in what parse_packet() returns: the packet does not begin where the skb does. */
#define KIND_STARTS_LATER 8

/* The ACK of a handshake may also echo a timestamp. */
#define RTTS_OF_A_PACKET 2

enum echo { ECHO_NONE, ECHO_REQUEST, ECHO_REPLY }; /* of ICMP and ICMPv6 */

/* What a header between the Ethernet header and the network header says; see link_headers.h. */
struct link_step {
    u64 next;     /* the EtherType in front of it */
    u64 offset;   /* where it begins */
    u64 end;      /* where the packet ends */
    u64 protocol; /* what follows it, as an EtherType; 0: that is in the two bytes in front of what follows */
    u64 size;     /* bytes from where it begins to what follows it; 0: what follows is not IP */
    u64 length;   /* bytes from where it begins to the packet's end; 0: it does not say that */
};

/*
 * They stand in a map, a row for each CPU, and not on the stack: what is there the verifier keeps in mind, and would
 * follow the rest of the program once for each of the ways in which they are found. The first two cache lines are those
 * of a usual packet.
 */
struct packet {
    struct address source;
    struct address destination;
    u16 source_port;
    u16 destination_port;
    u32 headers; /* bytes in front of the payload, link header included */
    u32 payload; /* bytes behind the transport header */
    u32 seq;     /* TCP */
    u32 ack_seq; /* TCP */
    u16 window;  /* TCP, not scaled */
#if COPIES
    u16 identification; /* IPv4 */
    u16 checksum;
#endif
    u32 tsval; /* TCP */
    u32 tsecr;
    u16 sequence; /* of ICMP echo, whose identifier stands for both ports */
    u64 udp_head; /* the first 8 bytes of UDP payload, as they stand there; 0 if there are fewer */
    bool has_timestamp;
    /* And TCP_IS_CUT. */
    u16 tcp_flags;
    /* Not 0: the first fragment of a packet. Written by parse_any() only. */
    u16 more_fragments;
    u8 echo; /* enum echo */
    u8 family;
    u8 protocol;
    u8 ecn;
    u8 answers;    /* how many others it answers */
    u64 start;     /* with KIND_STARTS_LATER, bytes in front of the packet that do not belong to it */
    u64 forgotten; /* see forget() */
    /* When what it answers was sent, and by which method that is an RTT. */
    struct {
        u64 asked_ns;
        u64 method;
    } ended[RTTS_OF_A_PACKET];
    struct link_step link;
};

DIRECT_TABLE(DIRECT_PACKETS, struct packet, packets, CPUS)

/*
 * The same number, of which the verifier now knows nothing, for it comes out of a map. Where several ways meet, it
 * would else follow all that comes after once for each of them. For the rarer packets, for it costs a store and a load.
 * (Of what opaque() returns the verifier still knows all: it is in the same register.)
 */
static __always_inline u64 forget(struct packet *packet, u64 number)
{
    volatile u64 *forgotten = &packet->forgotten;

    *forgotten = number;
    return *forgotten;
}

struct cursor {
    void *at;
    void *end;
};

/* The header of `size` bytes at the cursor, or NULL if the packet ends before it does. */
static __always_inline void *take(struct cursor *cursor, u64 size)
{
    void *header = cursor->at;

    if (header + size > cursor->end)
        return 0;
    cursor->at = header + size;
    return header;
}

/*
 * Bytes on the wire, link header included: wire_len counts the headers of all segments of an skb on its way out
 * (qdisc_pkt_len_init()), and what a capture left off; but on its way in it lacks the link header.
 */
static __always_inline u64 wire_length(struct __sk_buff *skb)
{
    return skb->wire_len > skb->len ? skb->wire_len : skb->len;
}

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
