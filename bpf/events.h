/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What `watch` and `replay --events` print, and compiled for them alone: each RTT, and each flow that opens or closes,
 * goes to user space through a ring buffer.
 *
 * What is reported, when, and of which direction, is ePPing's (xdp-project/bpf-examples, pping/pping_kern.c:
 * update_forward_flowstate() and its neighbours), so that what was made for its output works with ours. The direction
 * of a flow is open once the other endpoint was heard after it, and is reported as the packet that told of it goes, so
 * backwards.
 */
#pragma once

#include "flow.h"

enum event_type { EVENT_RTT, EVENT_OPENING, EVENT_CLOSING };
enum event_reason { REASON_NONE, REASON_SYN, REASON_SYN_ACK, REASON_FIRST_PACKET, REASON_FIN, REASON_RST };
enum event_trigger { TRIGGER_SOURCE, TRIGGER_DESTINATION };

struct event {
    u64 time_ns; /* of the reply; of the packet that opened a flow, or closed it */
    u64 rtt_ns;
    u64 min_rtt_ns;   /* of this direction so far */
    u64 sent_packets; /* by the endpoint that waited for the reply, with bytes of payload */
    u64 sent_bytes;
    u64 received_packets;
    u64 received_bytes;
    struct address source;
    struct address destination;
    u16 source_port; /* ports as they stand in the packet; of ICMP echo, the identifier, twice */
    u16 destination_port;
    u8 type;
    u8 reason;
    u8 trigger;
    u8 method;
    u8 protocol;
    u8 family;
    u8 egress;
    u8 zero[5];
};

#if EVENTS

#define EVENT_PAGES 1024

enum watched_state { WATCHED_EMPTY, WATCHED_WAITING, WATCHED_OPEN, WATCHED_CLOSED };

/* What one endpoint sends, and what comes back. */
struct watched_half {
    u64 opened_ns; /* when its first packet was seen */
    u64 last_ns;
    u64 min_rtt_ns;
    u64 sent_packets;
    u64 sent_bytes;
    u64 received_packets;
    u64 received_bytes;
    u32 state;
    u32 reason;
};

struct watched_flow {
    struct watched_half half[2]; /* [0] of the internal endpoint, [1] of the external one */
};

struct watched_key {
    struct flow_key flow;
    u64 protocol; /* as wide as this, so that there is no padding, whose bytes nobody sets */
};

BPF_RINGBUF_OUTPUT(events, EVENT_PAGES);
BPF_ARRAY(events_lost, u64, 1); /* for which the ring had no room */
BPF_TABLE("lru_hash", struct watched_key, struct watched_flow, watched, MAX_FLOWS);

/* A row for each CPU, for what the stack has no room for. */
BPF_ARRAY(event_draft, struct event, CPUS);
BPF_ARRAY(fresh_watched, struct watched_flow, 1);

#endif
