/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Defines the events of the commands `watch` and `replay --events`. The code for events is compiled only for these
 * commands. This code sends each RTT, and each flow that opens or closes, to user space through a ring buffer.
 *
 * Events, and their times and directions, follow the same rules as in ePPing (xdp-project/bpf-examples,
 * pping/pping_kern.c: update_forward_flowstate() and the functions next to it). So programs that read the output of
 * ePPing can also read the output of otel-epping. A direction of a flow opens when a packet in this direction is
 * followed by a packet in the opposite direction. The opening event has the source and destination of the packet in the
 * opposite direction.
 */
#pragma once

#include "flow_maps.h"

enum event_type { EVENT_RTT, EVENT_OPENING, EVENT_CLOSING };
enum event_reason { REASON_NONE, REASON_SYN, REASON_SYN_ACK, REASON_FIRST_PACKET, REASON_FIN, REASON_RST };
enum event_trigger { TRIGGER_SOURCE, TRIGGER_DESTINATION };

struct event {
    u64 time_ns; /* time of the reply, or of the packet that opened or closed the flow */
    u64 rtt_ns;
    u64 min_rtt_ns;   /* smallest RTT of this direction so far */
    u64 sent_packets; /* number of packets that the receiver of the reply has sent so far */
    u64 sent_bytes;   /* number of payload bytes that the receiver of the reply has sent so far */
    u64 received_packets;
    u64 received_bytes;
    struct address source;
    struct address destination;
    u16 source_port; /* in network byte order; for ICMP echo, both ports contain the identifier */
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

enum event_flow_state { EVENT_FLOW_EMPTY, EVENT_FLOW_WAITING, EVENT_FLOW_OPEN, EVENT_FLOW_CLOSED };

/*
 * The state of one endpoint, and the number of packets and bytes that the endpoint sent and received. Benign race: two
 * CPUs may process packets of one flow at the same time. At worst an event is missing or reported twice, and the counts
 * of a flow lack some packets.
 */
struct event_half {
    u64 opened_ns; /* time of the endpoint's first packet */
    u64 last_ns;
    u64 min_rtt_ns;
    u64 sent_packets;
    u64 sent_bytes;
    u64 received_packets;
    u64 received_bytes;
    u32 state;
    u32 reason;
};

struct event_flow {
    struct event_half half[2]; /* [0] is the internal endpoint, [1] is the external endpoint */
};

struct event_flow_key {
    struct flow_key flow;
    u64 protocol; /* 64 bits, so that the key has no padding, because the values of padding bytes are undefined */
};

_Static_assert(sizeof(struct event_flow_key) == sizeof(struct flow_key) + sizeof(u64), "a hash key without padding");

BPF_RINGBUF_OUTPUT(events, EVENT_PAGES);
BPF_ARRAY(events_lost, u64, 1); /* number of events that were lost because the ring buffer was full */
BPF_TABLE("lru_hash", struct event_flow_key, struct event_flow, event_flows, MAX_FLOWS);

/* These structs are too large for the stack: an event for each CPU, and an empty flow. */
BPF_ARRAY(event_buffer, struct event, CPUS);
BPF_ARRAY(new_event_flow, struct event_flow, 1);

#endif
