/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Finds the named network of an address (NETWORKS is 1). User space reads the names from a file, and assigns a number
 * to each network. All prefixes of a network have the number of the network, so all addresses of a network have the
 * same slot on each interface and side. The longest prefix that contains an address decides.
 *
 * The program looks up the network only when it looks up a slot, that is, for the first packet of a flow, or for a pair
 * of subnets that is not in the slot cache. After that, the flow or the slot cache contains the slots.
 *
 * There are two tries, and the program uses one of the two. To change the names, user space fills the other trie, and
 * then changes `networks` in struct control. So a packet sees either all old names or all new names. User space then
 * begins an epoch, so that all slots are looked up again, and empties the old trie when no CPU can use it any more.
 */
#pragma once

#include "maps.h"

#if NETWORKS

/* Each name can have two markers (see enum network_flags). One more entry separates IPv4 from IPv6. */
#define NETWORK_ENTRIES (3 * MAX_PREFIXES + 1)

struct network_key {
    u32 length;  /* prefix length in bits */
    u32 word[4]; /* an IPv6 address or an IPv4-mapped address, in network byte order */
};

/*
 * The slot cache identifies an address by its subnet. If a subnet contains names with longer prefixes, the slot depends
 * on more bits of the address. All entries of such a subnet have the flag SPLIT_SUBNET. User space also adds an entry
 * for the subnet itself, which is called a marker. So any address of the subnet finds an entry with the flag.
 *
 * In the same way, SPLIT_64 marks an IPv6 /64 that contains names with longer prefixes, if the slot cache has only one
 * word for a prefix.
 */
enum network_flags { SPLIT_SUBNET = 1, SPLIT_64 = 2 };

struct network {
    u32 number; /* 0: a marker without a name */
    u32 flags;  /* enum network_flags */
};

BPF_F_TABLE("lpm_trie", struct network_key, struct network, networks_0, NETWORK_ENTRIES, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lpm_trie", struct network_key, struct network, networks_1, NETWORK_ENTRIES, BPF_F_NO_PREALLOC);

/*
 * Returns the entry with the longest prefix that contains the address, or NULL. In the tries, ::ffff:0:0/96 contains
 * the IPv4 networks. An IPv6 packet with an IPv4-mapped address (EMBEDDED_MAPPED is 0) must not find an IPv4 network.
 * So the look-up clears one bit of such an address. The changed address is in the same IPv6 networks, because each
 * prefix of up to 95 bits contains both addresses or neither. Longer prefixes of the changed address are not allocated.
 */
static __always_inline const struct network *find_network(const struct address *address, u8 family)
{
    struct network_key key = {.length = 128};

    __builtin_memcpy(key.word, address, sizeof(key.word));
    if (family == FAMILY_V6 && !address->half[0] && key.word[2] == __cpu_to_be32(0xffff))
        key.word[2] = __cpu_to_be32(0xfffe);
    return current_control()->networks ? networks_1.lookup(&key) : networks_0.lookup(&key);
}

#endif
