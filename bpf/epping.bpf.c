/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * otel-epping's kernel program: watches the packets of an interface, both ways, matches each with its reply, and counts
 * the round-trip time into the histogram of the subnet that answered. It never changes, delays or drops a packet, and
 * tells user space nothing but what stands in the maps.
 *
 * A packet's way is observe(), from top to bottom.
 */
#include <linux/pkt_cls.h>

#include "config.h"
#include "maps.h"
#include "clock.h"
#include "packet.h"
#include "traffic.h"
#include "subnet.h"
#include "flow.h"
#include "histogram.h"
#include "tcp_timestamp.h"

#define INTERFACE_PROBES 4

/* The number of an interface, and how long its link header is. User space fills the table before it attaches us. */
static __always_inline u32 find_interface(u32 ifindex, u32 *link_header)
{
    for (u32 i = 0; i < INTERFACE_PROBES; i++) {
        u32 row = (ifindex + i) & (INTERFACES - 1);
        struct interface *interface = interfaces.lookup(&row);

        if (interface && interface->ifindex == ifindex) {
            *link_header = interface->link_header;
            return row + 1;
        }
    }
    *link_header = ETH_HLEN;
    return UNKNOWN_INTERFACE;
}

static __always_inline void observe(struct __sk_buff *skb, bool ingress)
{
    enum side source_side = ingress ? SIDE_EXTERNAL : SIDE_INTERNAL;
    enum side destination_side = ingress ? SIDE_INTERNAL : SIDE_EXTERNAL;
    u32 link_header, zero = 0, source_slot, destination_slot;
    u32 interface = find_interface(skb->ifindex, &link_header);
    struct interface_counters *counters = counters_of(interface);
    struct control *told = control.lookup(&zero);
    struct packet packet = {};
    struct flow_view flow;

    if (!counters || !told)
        return;

    enum packet_kind kind = parse_packet(skb, link_header, &packet);
    struct tally tally = wire_tally(skb, packet.headers, ingress);

    add(ingress ? &counters->received[kind] : &counters->transmitted[kind], tally);
    if (kind == KIND_NON_IP || kind == KIND_MALFORMED)
        return;
    counters->ecn[packet.ecn & 3] += tally.packets;

    bool has_flow = kind == KIND_TCP && find_flow(&packet, interface, source_side, counters, &flow);

    if (has_flow) {
        source_slot =
            cached_slot(flow.sender, told->epoch, packet.source, packet.family, interface, source_side, skb, counters);
        destination_slot = cached_slot(flow.receiver, told->epoch, packet.destination, packet.family, interface,
                                       destination_side, skb, counters);
    } else {
        source_slot = slot_of(packet.source, packet.family, interface, source_side, skb, counters);
        destination_slot = slot_of(packet.destination, packet.family, interface, destination_side, skb, counters);
    }
    count_traffic(source_slot, destination_slot, class_of(kind, &packet), tally);

    if (has_flow && packet.has_timestamp)
        tcp_timestamp(&flow, &packet, source_slot, skb, counters);
}

int epping_ingress(struct __sk_buff *skb)
{
    observe(skb, true);
    return TC_ACT_UNSPEC; /* whoever comes next on the hook decides */
}

int epping_egress(struct __sk_buff *skb)
{
    observe(skb, false);
    return TC_ACT_UNSPEC;
}
