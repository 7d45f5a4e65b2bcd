/* SPDX-License-Identifier: GPL-2.0-only */
/* Follows flows as ePPing does, and reports what it would; see events.h. */
#pragma once

#include "events.h"
#include "context.h"

#if EVENTS

/* An event of this packet's flow; `backwards`: of the other direction. */
static __always_inline struct event *draft_event(struct observation *seen, u8 type, u64 time_ns, bool backwards)
{
    const struct packet *packet = seen->packet;
    u32 cpu = bpf_get_smp_processor_id();
    struct event *event = event_draft.lookup(&cpu);

    if (!event)
        return 0;
    event->time_ns = time_ns;
    event->source = backwards ? packet->destination : packet->source;
    event->destination = backwards ? packet->source : packet->destination;
    event->source_port = backwards ? packet->destination_port : packet->source_port;
    event->destination_port = backwards ? packet->source_port : packet->destination_port;
    event->type = type;
    event->protocol = packet->protocol;
    event->family = packet->family;
    event->egress = !seen->ingress;
    return event;
}

static __always_inline void send_event(struct event *event)
{
    u32 zero = 0;
    u64 *lost = events_lost.lookup(&zero);

    if (events.ringbuf_output(event, sizeof(*event), 0) && lost)
        __sync_fetch_and_add(lost, 1);
}

static __always_inline void report_rtt(struct observation *seen, u8 method, u64 rtt_ns)
{
    struct watched_half *half = seen->watched_receiver;
    struct event *event = draft_event(seen, EVENT_RTT, precise_now(seen->skb), false);
    struct watched_half unknown = {};

    if (!event)
        return;
    if (!half) /* pushed out of the table */
        half = &unknown;
    if (!half->min_rtt_ns || rtt_ns < half->min_rtt_ns)
        half->min_rtt_ns = rtt_ns;
    event->rtt_ns = rtt_ns;
    event->min_rtt_ns = half->min_rtt_ns;
    event->sent_packets = half->sent_packets;
    event->sent_bytes = half->sent_bytes;
    event->received_packets = half->received_packets;
    event->received_bytes = half->received_bytes;
    event->method = method;
    send_event(event);
}

static __always_inline void report_flow(struct observation *seen, u8 type, u64 time_ns, u8 reason, bool backwards)
{
    struct event *event = draft_event(seen, type, time_ns, backwards);

    if (!event)
        return;
    event->reason = reason;
    /* Of a closing, who closed; of an opening, always the other one: the direction that opened is told backwards. */
    event->trigger = type == EVENT_OPENING || backwards ? TRIGGER_DESTINATION : TRIGGER_SOURCE;
    send_event(event);
}

/* What ePPing would time, with the methods that we have: a flow of nothing else isn't one to it. */
static __always_inline bool may_ask(const struct packet *packet, enum packet_kind kind)
{
    if (kind == KIND_TCP)
        return packet->payload || packet->tcp_flags & TCP_SYN;
    return kind == KIND_UDP || packet->echo == ECHO_REQUEST;
}

static __always_inline bool is_watched(const struct packet *packet, enum packet_kind kind)
{
    if (kind == KIND_TCP)
        return packet->has_timestamp || METHODS & ~(1U << METHOD_TCP_TIMESTAMP);
    return kind == KIND_UDP || (kind == KIND_ICMP && packet->echo);
}

static __always_inline bool is_active(const struct watched_half *half)
{
    return half->state == WATCHED_WAITING || half->state == WATCHED_OPEN;
}

static __always_inline struct watched_flow *find_watched(struct observation *seen, enum packet_kind kind)
{
    const struct packet *packet = seen->packet;
    struct watched_key key = {
        .flow = flow_key_of(packet, seen->interface, place_of_source(packet, seen->source_side)),
        .protocol = packet->protocol,
    };
    struct watched_flow *flow = watched.lookup(&key);
    u32 zero = 0;
    struct watched_flow *fresh = fresh_watched.lookup(&zero);

    if (!fresh || !may_ask(packet, kind) || packet->tcp_flags & (TCP_FIN | TCP_RST))
        return flow;
    if (!flow) {
        watched.insert(&key, fresh);
        return watched.lookup(&key);
    }
    if (!is_active(&flow->half[0]) && !is_active(&flow->half[1]))
        *flow = *fresh;
    return flow;
}

static __always_inline void begin_half(struct watched_half *half, const struct packet *packet, u64 now_ns)
{
    half->state = WATCHED_WAITING;
    half->opened_ns = now_ns;
    half->reason = !(packet->tcp_flags & TCP_SYN) ? REASON_FIRST_PACKET
                   : packet->tcp_flags & TCP_ACK  ? REASON_SYN_ACK
                                                  : REASON_SYN;
}

/* Before RTTs are recorded: who speaks for the first time, and who is heard for the first time. */
static __always_inline void watch_packet(struct observation *seen, enum packet_kind kind)
{
    const struct packet *packet = seen->packet;
    struct watched_flow *flow = is_watched(packet, kind) ? find_watched(seen, kind) : 0;
    u64 now_ns = precise_now(seen->skb);
    u64 source = bounded(place_of_source(packet, seen->source_side), 2);

    if (!flow)
        return;

    struct watched_half *sender = &flow->half[source];
    struct watched_half *receiver = &flow->half[!source];

    seen->watched_sender = sender;
    seen->watched_receiver = receiver;
    if (sender->state == WATCHED_EMPTY && may_ask(packet, kind))
        begin_half(sender, packet, now_ns);
    if (is_active(sender)) {
        sender->last_ns = now_ns;
        sender->sent_packets++;
        sender->sent_bytes += packet->payload;
    }
    if (!is_active(receiver))
        return;
    if (receiver->state == WATCHED_WAITING && !(packet->tcp_flags & TCP_RST)) {
        receiver->state = WATCHED_OPEN;
        if (kind != KIND_UDP) /* nothing there opens */
            report_flow(seen, EVENT_OPENING, receiver->opened_ns, receiver->reason, false);
    }
    receiver->received_packets++;
    receiver->received_bytes += packet->payload;
}

/* After RTTs are recorded: a FIN closes the direction that it was sent in, a RST both. */
static __always_inline void watch_end(struct observation *seen)
{
    struct watched_half *sender = seen->watched_sender, *receiver = seen->watched_receiver;
    u8 closing = seen->packet->tcp_flags & (TCP_FIN | TCP_RST);
    u8 reason = closing & TCP_RST ? REASON_RST : REASON_FIN;
    u64 now_ns = precise_now(seen->skb);

    if (!sender || !receiver || !closing)
        return;
    if (sender->state == WATCHED_OPEN)
        report_flow(seen, EVENT_CLOSING, now_ns, reason, true);
    sender->state = WATCHED_CLOSED;
    if (closing & TCP_RST) {
        if (receiver->state == WATCHED_OPEN)
            report_flow(seen, EVENT_CLOSING, now_ns, reason, false);
        receiver->state = WATCHED_CLOSED;
    }
}

#endif
