/* SPDX-License-Identifier: GPL-2.0-only */
/* The maps that match packets with their replies: TCP flows, the slot cache, transactions. */
#pragma once

#include "maps.h"

#define MAX_OUTSTANDING 4

/* ---- TCP flows (flow_table.h) */

/*
 * Both directions of a flow share an entry. The side of a packet's source says which endpoint is internal and which is
 * external. If the packets of a flow arrive and leave through the same interface, the side of the source is different
 * on arrival and on departure. Such a flow has two entries. In a capture the sides are unknown. Then the external
 * endpoint is the endpoint with the greater address and port.
 */
struct flow_key {
    struct address internal;
    struct address external;
    u16 internal_port;
    u16 external_port;
    u16 interface;
    u8 family;
    u8 zero;
};

_Static_assert(sizeof(struct flow_key) - sizeof(struct address[2]) == sizeof(u64), "one word follows the addresses");

/* The state of one endpoint as a sender, except its outstanding segments. clock.h explains coarse and precise times. */
struct half_flow {
    u64 tsval_changed_ns;    /* coarse time at which the TSval last changed; 0: timestamps are not used */
    u64 next_seq_changed_ns; /* coarse time at which next_seq last advanced; 0: no segment seen yet */
    u64 syn_ack_ns;          /* precise time of the endpoint's SYN-ACK; 0: no SYN-ACK waits for its ACK */
    u64 sample_started_ns;   /* coarse time at which the last RTT sample started */
    u32 syn_ack_end;         /* the sequence number that acknowledges the endpoint's SYN-ACK */
    u32 last_tsval;
    u32 next_seq;    /* one past the greatest sequence number that the endpoint sent */
    u32 acked;       /* the greatest acknowledgement number that the endpoint sent */
    u32 window;      /* window of the endpoint's last segment, plus 1; 0: no segment seen yet */
    u32 first_seq;   /* one past the sequence number of the endpoint's SYN; 0: no SYN seen */
    u8 has_sent;     /* 1: the endpoint sent a packet since the flow was last closed */
    u8 pending;      /* bit i: entry i of struct outstanding waits for its reply */
    u8 dup_acks;     /* number of duplicate acknowledgements of `acked`; the first acknowledgement does not count */
    u8 timing_flags; /* see tcp_method_choice.h */
    u32 echo_due;    /* an acknowledgement of this sequence number must echo a pending TSval; with
                      * TIMING_AWAITS_ECHO, the TSval whose echo shows that echoes work again */
};

_Static_assert(sizeof(struct half_flow) == CACHE_LINE, "a cache line");
_Static_assert(MAX_OUTSTANDING <= 8, "a bit of `pending` for each");

/* The segments of one endpoint that wait for their reply. */
struct outstanding {
    u64 sent_ns[MAX_OUTSTANDING];
    u32 expected[MAX_OUTSTANDING]; /* TSval to be echoed; for tcp_sequence, [0] is the acknowledgement number */
};

/* A flow is closed if it has no packets for longer than this time. The next packet with the same key opens another
 * flow. */
#define FLOW_IDLE_NS 300000000000ULL
#define BOTH_ENDS 3

/*
 * Index 0 is the internal endpoint, index 1 the external one. The program reads the first cache line for each packet,
 * and user space reads this cache line in each scan of the table.
 */
struct flow {
    struct flow_key key;
    u64 last_ns;         /* coarse time of the flow's last packet */
    u64 cached_slots[2]; /* epoch << 32 | slot of the endpoint's subnet */
    struct half_flow half[2];
    struct outstanding outstanding[2];
    u64 syn_ns;       /* precise time of the SYN that the SYN-ACK answers; 0: not exactly one SYN seen */
    u64 handshake_ns; /* time from that SYN to the ACK of the SYN-ACK; 0: unknown */
    u64 closed_ends;  /* bit i: endpoint i sent a FIN; BOTH_ENDS: the flow is closed */
    u64 has_copies;   /* 1: a segment was seen a second time (copies.h) */
};

_Static_assert(__builtin_offsetof(struct flow, half) == CACHE_LINE, "the first cache line ends with the slots");
_Static_assert(sizeof(struct flow) == 5 * CACHE_LINE, "all rows begin with a cache line");

/* A flow is in one of the FLOW_WAYS rows of its set (flow_table.h). */
#define FLOW_WAYS 16
#define FLOW_SETS ((MAX_FLOWS + FLOW_WAYS - 1) / FLOW_WAYS)

BPF_F_TABLE("array", u32, struct flow, flows, FLOW_SETS *FLOW_WAYS, BPF_F_MMAPABLE);

/*
 * Each row of a set has a tag. The tag is 0 if the row is free. Otherwise the tag consists of bits of the hash of the
 * flow's key, and of the TAG_* bits.
 */
struct flow_set {
    u32 tags[FLOW_WAYS];
};

_Static_assert(sizeof(struct flow_set) == CACHE_LINE, "a cache line");

DIRECT_TABLE(DIRECT_FLOW_SETS, struct flow_set, flow_sets, FLOW_SETS)

/* 1: a CPU is assigning a row of the set to another flow. */
BPF_ARRAY(flow_locks, u64, FLOW_SETS);

/* ---- the slot cache (slot_cache.h) */

#define SLOT_CACHE_BITS 12

/*
 * If IPv6 prefixes have at most 64 bits, one half of each prefix is 0: the first half for IPv4, the second half for
 * IPv6. Then one word can hold a whole prefix.
 */
#define PREFIX_WORDS (PREFIX_V6 > 64 ? 2 : 1)

struct prefix {
    u64 word[PREFIX_WORDS];
};

/*
 * The slots of two subnets, internal and external as in struct flow_key. The row number is cpu << SLOT_CACHE_BITS |
 * hash. A pair of subnets has two places: two rows that differ only in the last bit of the hash. The row with last bit
 * 0 has the pair that was added last. If IPv6 prefixes have at most 64 bits, both places are in one cache line.
 */
struct slot_cache_entry {
    struct prefix internal;
    struct prefix external;
    u64 tag; /* epoch << 32 | interface << 8 | family; 0: this place is free */
    u32 slots[2];
};

_Static_assert(PREFIX_WORDS > 1 || sizeof(struct slot_cache_entry[2]) == CACHE_LINE, "two places in a cache line");

DIRECT_TABLE(DIRECT_SLOT_CACHE, struct slot_cache_entry, slot_cache, CPUS << SLOT_CACHE_BITS)

/* ---- requests that wait for their reply (transaction.h) */

struct transaction_key {
    struct address client;
    struct address server;
    u16 client_port;
    u16 server_port;
    u32 identifier;
    u16 interface;
    u8 family;
    u8 method;
    u8 client_external;
    u8 zero[3];
};

_Static_assert(sizeof(struct transaction_key) == 48, "a hash key without padding");

#define MAX_TRANSACTIONS (MAX_FLOWS / 5 * 4)

struct transaction {
    u64 sent_ns;  /* precise time of the request */
    u32 state;    /* enum transaction_state */
    u32 alias_of; /* with TRANSACTION_ALIAS, the identifier of the request */
};

BPF_TABLE("lru_hash", struct transaction_key, struct transaction, transactions, MAX_TRANSACTIONS);
