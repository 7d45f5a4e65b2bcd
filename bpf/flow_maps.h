/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Declares the flow table, the slot cache, and the map of transactions. The program uses these maps to match packets
 * with their replies.
 */
#pragma once

#include "maps.h"

#define MAX_OUTSTANDING 4

/* ---- TCP flows (flow_table.h) */

/*
 * Both directions of a flow share a flow table entry. The side of a packet's source determines which endpoint is
 * internal and which endpoint is external. A flow whose packets arrive and leave through the same interface has two
 * entries, because the side of a packet's source is different on arrival and on departure. If the sides are unknown, as
 * in a capture, the external endpoint is the endpoint with the greater address and port.
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

/*
 * The sender state of one endpoint of a flow. The segments that wait for a reply are in struct outstanding. clock.h
 * explains coarse and precise times.
 */
struct half_flow {
    u64 tsval_changed_ns;    /* coarse time of the last change of the TSval; 0: timestamps are not used */
    u64 next_seq_changed_ns; /* coarse time of the last change of next_seq; 0: no segment seen yet */
    u64 syn_ack_ns;          /* precise time of the endpoint's SYN-ACK; 0: no SYN-ACK waits for its ACK */
    u64 sample_started_ns;   /* coarse time at which the last RTT sample started */
    u32 syn_ack_end;         /* the sequence number that acknowledges the endpoint's SYN-ACK */
    u32 last_tsval;
    u32 next_seq;    /* the greatest sequence number that the endpoint sent, plus 1 */
    u32 acked;       /* the greatest acknowledgement number that the endpoint sent */
    u32 window;      /* window of the endpoint's last segment, plus 1; 0: no segment seen yet */
    u32 first_seq;   /* the sequence number of the endpoint's SYN, plus 1; 0: no SYN seen */
    u8 has_sent;     /* 1: the endpoint has sent a packet since the flow was last closed */
    u8 pending;      /* if bit i is set, entry i of struct outstanding waits for a reply */
    u8 dup_acks;     /* number of duplicate acknowledgements of `acked`, without the first acknowledgement */
    u8 timing_flags; /* see tcp_method_choice.h */
    u32 echo_due;    /* an acknowledgement of this sequence number must echo a TSval in struct outstanding; with
                      * TIMING_AWAITS_ECHO, this field is a TSval, and an echo of it shows that echoes work again */
};

_Static_assert(sizeof(struct half_flow) == CACHE_LINE, "a cache line");
_Static_assert(MAX_OUTSTANDING <= 8, "a bit of `pending` for each");

/* The segments of one endpoint that wait for a reply. */
struct outstanding {
    u64 sent_ns[MAX_OUTSTANDING];
    u32 expected[MAX_OUTSTANDING]; /* TSval that the reply echoes; tcp_sequence: [0] is an acknowledgement number */
};

/*
 * The idle timeout. A flow that has no packets for longer than this time is closed. The next packet with the same key
 * then opens another flow.
 */
#define FLOW_IDLE_NS 300000000000ULL
#define BOTH_ENDS 3

/*
 * A TCP flow. In each array, index 0 is the internal endpoint and index 1 is the external endpoint. The program reads
 * the first cache line of the flow for each packet. User space reads the first cache line of each flow when it scans
 * the table.
 */
struct flow {
    struct flow_key key;
    u64 last_ns;         /* coarse time of the flow's last packet */
    u64 cached_slots[2]; /* epoch << 32 | slot of the endpoint's subnet */
    struct half_flow half[2];
    struct outstanding outstanding[2];
    u64 syn_ns;       /* precise time of the SYN that the SYN-ACK answers; 0: no SYN, or several SYNs, seen */
    u64 handshake_ns; /* time from the SYN to the ACK of the SYN-ACK; 0: unknown */
    u64 closed_ends;  /* bit i: endpoint i sent a FIN; BOTH_ENDS: the flow is closed */
    u64 has_copies;   /* 1: the program has seen a copy of a segment (copies.h) */
};

_Static_assert(__builtin_offsetof(struct flow, half) == CACHE_LINE, "the first cache line ends with the slots");
_Static_assert(sizeof(struct flow) == 5 * CACHE_LINE, "all rows begin with a cache line");

/* The table consists of sets of FLOW_WAYS rows. A flow is in one row of its set (flow_table.h). */
#define FLOW_WAYS 16
#define FLOW_SETS ((MAX_FLOWS + FLOW_WAYS - 1) / FLOW_WAYS)

BPF_F_TABLE("array", u32, struct flow, flows, FLOW_SETS *FLOW_WAYS, BPF_F_MMAPABLE);

/*
 * Each row of a set has a tag. The tag of a free row is 0. The tag of a row in use consists of the TAG_* bits and of
 * some bits of the hash of the flow's key.
 */
struct flow_set {
    u32 tags[FLOW_WAYS];
};

_Static_assert(sizeof(struct flow_set) == CACHE_LINE, "a cache line");

DIRECT_TABLE(DIRECT_FLOW_SETS, struct flow_set, flow_sets, FLOW_SETS)

/* 1: a CPU is assigning a row of the set to another flow. */
BPF_ARRAY(flow_locks, u64, FLOW_SETS);

/* ---- the slot cache (slot_cache.h) */

#define SLOT_CACHE_BITS (NETWORKS ? 14 : 12)

/*
 * If PREFIX_V6 is at most 64, one half of each prefix is 0: the first half of an IPv4 prefix, and the second half of an
 * IPv6 prefix. So the other half, which is one word, holds the whole prefix.
 */
#define PREFIX_WORDS (PREFIX_V6 > 64 ? 2 : 1)

struct prefix {
    u64 word[PREFIX_WORDS];
};

/*
 * Bits in the tag of an entry. The lowest four bits are the family of the packet. TAG_EMBEDDED, for the internal
 * endpoint, and TAG_EMBEDDED << 1, for the external endpoint, are set if an endpoint of an IPv6 packet counts for an
 * embedded IPv4 address.
 *
 * If named networks split a subnet (networks.h), the entry of a pair of subnets has the number NO_SINGLE_SLOT instead
 * of the subnet's slot. The slot is then in an entry for one endpoint: `internal` is an IPv4 address, an IPv6 /64, or
 * with two words an IPv6 address, `external` is 0, and the tag has the bit TAG_NARROW and the side of the endpoint.
 */
#define TAG_EMBEDDED 0x10
#define TAG_SIDE_SHIFT 4
#define TAG_NARROW 0x40
#define NO_SINGLE_SLOT OVERFLOW_SLOT

/*
 * The slots of an internal subnet and of an external subnet. struct flow_key explains internal and external. The row
 * number is cpu << SLOT_CACHE_BITS | hash. A pair of subnets can be in one of two rows. The numbers of these two rows
 * differ only in the last bit of the hash. The row whose last bit is 0 holds the pair of subnets that was added last.
 * If PREFIX_V6 is at most 64, both rows are in one cache line.
 */
struct slot_cache_entry {
    struct prefix internal;
    struct prefix external;
    u64 tag; /* epoch << 32 | interface << 8 | bits of the endpoints; 0: this row is free */
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
