/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * If TUNNELS is 1, the program measures the packet inside a tunnel: GRE (RFC 2784, RFC 2890), VXLAN (RFC 7348) or
 * IP-in-IP (RFC 2003, RFC 4213, RFC 2473). The program does not search for a second tunnel inside the first tunnel, and
 * accepts at most one 802.1Q tag inside the tunnel. If the tunnel header is incomplete, the program measures the outer
 * packet.
 */
#pragma once

#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include "link_headers.h"

#define GRE_CHECKSUM 0x8000
#define GRE_ROUTING 0x4000 /* defined in RFC 1701, removed by RFC 2784 */
#define GRE_KEY 0x2000
#define GRE_SEQUENCE 0x1000
#define GRE_VERSION 0x0007
#define ETH_P_TRANSPARENT_ETHERNET 0x6558
#define VXLAN_PORT 4789
#define VXLAN_HAS_NETWORK 0x08000000

/*
 * inside_gre(), inside_vxlan() and inside_ip() parse a tunnel header at `offset`. Each function returns the EtherType
 * of the inner packet and moves `offset` to the start of the inner packet. If the packet is not in a tunnel, the
 * function returns 0.
 */
static __always_inline u16 inside_gre(struct __sk_buff *skb, u32 *offset)
{
    struct {
        __be16 flags;
        __be16 protocol;
    } gre;

    if (bpf_skb_load_bytes(skb, *offset, &gre, sizeof(gre)))
        return 0;

    u16 flags = __be16_to_cpu(gre.flags);

    if (flags & (GRE_ROUTING | GRE_VERSION))
        return 0;
    *offset += sizeof(gre) + 4 * (!!(flags & GRE_CHECKSUM) + !!(flags & GRE_KEY) + !!(flags & GRE_SEQUENCE));
    return __be16_to_cpu(gre.protocol);
}

static __always_inline u16 inside_vxlan(struct __sk_buff *skb, u32 *offset)
{
    struct {
        struct udphdr udp;
        __be32 flags;
        __be32 network;
    } vxlan;

    if (bpf_skb_load_bytes(skb, *offset, &vxlan, sizeof(vxlan)) || vxlan.udp.dest != __cpu_to_be16(VXLAN_PORT) ||
        !(vxlan.flags & __cpu_to_be32(VXLAN_HAS_NETWORK)))
        return 0;
    *offset += sizeof(vxlan);
    return ETH_P_TRANSPARENT_ETHERNET;
}

static __always_inline u16 inside_ip(struct __sk_buff *skb, u8 version, u32 *offset)
{
    u8 protocol;

    if (version == 4) {
        struct iphdr ip;

        if (bpf_skb_load_bytes(skb, *offset, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
            ip.frag_off & __cpu_to_be16(0x3fff))
            return 0;
        protocol = ip.protocol;
        *offset += ip.ihl * 4;
    } else {
        struct ipv6hdr ip;

        if (bpf_skb_load_bytes(skb, *offset, &ip, sizeof(ip)) || ip.version != 6)
            return 0;
        protocol = ip.nexthdr;
        *offset += sizeof(ip);
    }

    switch (protocol) {
    case IPPROTO_IPIP:
        return ETH_P_IP;
    case IPPROTO_IPV6:
        return ETH_P_IPV6;
    case IPPROTO_GRE:
        return inside_gre(skb, offset);
    case IPPROTO_UDP:
        return inside_vxlan(skb, offset);
    default:
        return 0;
    }
}

/*
 * Sets `bytes` and `version` to the offset and the version of the inner IP header. If the packet is not in a tunnel,
 * `bytes` and `version` do not change.
 */
static __always_inline void enter_tunnel(struct __sk_buff *skb, u64 *bytes, u64 *version)
{
    /* These barriers, and the two barriers after the call of inside_ip(), let the verifier follow only one path. */
    u64 outer_bytes = *bytes, outer_version = *version;

    barrier_var(outer_bytes);
    barrier_var(outer_version);
    *bytes = outer_bytes;
    *version = outer_version;

    u32 inner = outer_bytes;
    u64 inner_protocol = inside_ip(skb, outer_version, &inner), inner_bytes = inner;

    barrier_var(inner_protocol);
    barrier_var(inner_bytes);

    u16 protocol = inner_protocol;
    u32 offset = inner_bytes;
    if (protocol == ETH_P_TRANSPARENT_ETHERNET) {
        struct ethhdr ethernet;

        if (bpf_skb_load_bytes(skb, offset, &ethernet, sizeof(ethernet)))
            return;
        protocol = __be16_to_cpu(ethernet.h_proto);
        offset += sizeof(ethernet);
    }
    if (protocol == ETH_P_8021Q) {
        struct {
            __be16 control;
            __be16 protocol;
        } tag;

        if (bpf_skb_load_bytes(skb, offset, &tag, sizeof(tag)))
            return;
        protocol = __be16_to_cpu(tag.protocol);
        offset += sizeof(tag);
    }
    if (protocol != ETH_P_IP && protocol != ETH_P_IPV6)
        return;
    *bytes = offset;
    *version = protocol == ETH_P_IP ? 4 : 6;
}
