/* SPDX-License-Identifier: GPL-2.0-only */
/* Tracks the flows of all protocols and reports the events of these flows, as ePPing does (events.h). */
#pragma once

#include "events.h"
#include "flow.h"

#if EVENTS

/*
 * Fills in an event of this packet's flow. If `backwards` is true, the source of the event is the destination of the
 * packet.
 */
static __always_inline struct event *fill_event(const struct context *ctx, u8 type, u64 time_ns, bool backwards)
{
    const struct packet *packet = ctx->packet;
    u32 cpu = bpf_get_smp_processor_id();
    struct event *event = event_buffer.lookup(&cpu);

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
    event->egress = !ctx->ingress;
    return event;
}

static __always_inline void send_event(struct event *event)
{
    u32 zero = 0;
    u64 *lost = events_lost.lookup(&zero);

    if (events.ringbuf_output(event, sizeof(*event), 0) && lost)
        __sync_fetch_and_add(lost, 1);
}

static __always_inline void report_rtt(const struct context *ctx, u8 method, u64 rtt_ns)
{
    struct event_half *half = ctx->event_receiver;
    struct event *event = fill_event(ctx, EVENT_RTT, precise_now(ctx->skb), false);
    struct event_half unknown = {};

    if (!event)
        return;
    if (!half) /* the packet's flow was evicted from the table */
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

static __always_inline void report_flow(const struct context *ctx, u8 type, u64 time_ns, u8 reason, bool backwards)
{
    struct event *event = fill_event(ctx, type, time_ns, backwards);

    if (!event)
        return;
    event->reason = reason;
    /* The trigger is the endpoint that opened or closed the flow. In an opening event, the trigger is always the
     * destination, because the event has the opposite direction of the packet that opened the flow. */
    event->trigger = type == EVENT_OPENING || backwards ? TRIGGER_DESTINATION : TRIGGER_SOURCE;
    send_event(event);
}

/*
 * Returns whether ePPing would start an RTT sample with this packet if ePPing had the methods of this program. ePPing
 * ignores a flow until a packet of the flow may start an RTT sample.
 */
static __always_inline bool may_start_sample(const struct packet *packet, enum packet_kind kind)
{
    if (kind == KIND_TCP)
        return packet->payload || packet->tcp_flags & TCP_SYN;
    return kind == KIND_UDP || packet->echo == ECHO_REQUEST;
}

static __always_inline bool has_events(const struct packet *packet, enum packet_kind kind)
{
    if (kind == KIND_TCP)
        return packet->has_timestamp || METHODS & ~(1U << METHOD_TCP_TIMESTAMP);
    return kind == KIND_UDP || (kind == KIND_ICMP && packet->echo);
}

static __always_inline bool is_active(const struct event_half *half)
{
    return half->state == EVENT_FLOW_WAITING || half->state == EVENT_FLOW_OPEN;
}

static __always_inline struct event_flow *find_event_flow(const struct context *ctx, enum packet_kind kind)
{
    const struct packet *packet = ctx->packet;
    struct event_flow_key key = {
        .flow = flow_key_of(ctx, source_index(packet, ctx->source.side)),
        .protocol = packet->protocol,
    };
    struct event_flow *flow = event_flows.lookup(&key);
    u32 zero = 0;
    struct event_flow *fresh = new_event_flow.lookup(&zero);

    if (!fresh || !may_start_sample(packet, kind) || packet->tcp_flags & (TCP_FIN | TCP_RST))
        return flow;
    if (!flow) {
        event_flows.insert(&key, fresh);
        return event_flows.lookup(&key);
    }
    if (!is_active(&flow->half[0]) && !is_active(&flow->half[1]))
        *flow = *fresh;
    return flow;
}

static __always_inline void open_half(struct event_half *half, const struct packet *packet, u64 now_ns)
{
    half->state = EVENT_FLOW_WAITING;
    half->opened_ns = now_ns;
    half->reason = !(packet->tcp_flags & TCP_SYN) ? REASON_FIRST_PACKET
                   : packet->tcp_flags & TCP_ACK  ? REASON_SYN_ACK
                                                  : REASON_SYN;
}

/*
 * Updates the flow of the packet before the packet's RTTs are recorded: opens a direction of the flow if necessary, and
 * counts the packet.
 */
static __always_inline void track_event_flow(struct context *ctx, enum packet_kind kind)
{
    const struct packet *packet = ctx->packet;
    struct event_flow *flow = has_events(packet, kind) ? find_event_flow(ctx, kind) : 0;
    u64 now_ns = precise_now(ctx->skb);
    u64 source = bounded(source_index(packet, ctx->source.side), 2);

    if (!flow)
        return;

    struct event_half *sender = &flow->half[source];
    struct event_half *receiver = &flow->half[!source];

    ctx->event_sender = sender;
    ctx->event_receiver = receiver;
    if (sender->state == EVENT_FLOW_EMPTY && may_start_sample(packet, kind))
        open_half(sender, packet, now_ns);
    if (is_active(sender)) {
        sender->last_ns = now_ns;
        sender->sent_packets++;
        sender->sent_bytes += packet->payload;
    }
    if (!is_active(receiver))
        return;
    if (receiver->state == EVENT_FLOW_WAITING && !(packet->tcp_flags & TCP_RST)) {
        receiver->state = EVENT_FLOW_OPEN;
        if (kind != KIND_UDP) /* UDP flows have no opening event */
            report_flow(ctx, EVENT_OPENING, receiver->opened_ns, receiver->reason, false);
    }
    receiver->received_packets++;
    receiver->received_bytes += packet->payload;
}

/*
 * Closes flows after the RTTs of the packet are recorded. A FIN closes the direction in which it is sent, and a RST
 * closes both directions.
 */
static __always_inline void close_event_flow(const struct context *ctx)
{
    struct event_half *sender = ctx->event_sender, *receiver = ctx->event_receiver;
    u8 closing = ctx->packet->tcp_flags & (TCP_FIN | TCP_RST);
    u8 reason = closing & TCP_RST ? REASON_RST : REASON_FIN;
    u64 now_ns = precise_now(ctx->skb);

    if (!sender || !receiver || !closing)
        return;
    if (sender->state == EVENT_FLOW_OPEN)
        report_flow(ctx, EVENT_CLOSING, now_ns, reason, true);
    sender->state = EVENT_FLOW_CLOSED;
    if (closing & TCP_RST) {
        if (receiver->state == EVENT_FLOW_OPEN)
            report_flow(ctx, EVENT_CLOSING, now_ns, reason, false);
        receiver->state = EVENT_FLOW_CLOSED;
    }
}

#endif
