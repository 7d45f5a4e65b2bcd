# SPDX-License-Identifier: Apache-2.0
"""docs/links.md, made from the tables of the kernel program and of captures: `python -m scripts.links_page`."""

import re

from otel_epping.kernel.load.loader import source_folder
from otel_epping.replay.capture import links

_ROW = re.compile(r"ROW\(0x([0-9a-f]+), \d+\)\s+/\* (.*?) \*/")
# The cases of read_link_header() in bpf/link_headers.h that have no row: EtherTypes, header, what is read of it.
VARIABLE = (
    (
        "0x0000 to 0x05dc, 0x8870",
        "802.3 with LLC (IEEE 802.2)",
        "SNAP with an EtherType (RFC 1042, 802.1H), IP, Cisco ISL",
    ),
    ("0x22f3", "TRILL (RFC 6325)", "the frame inside, behind any options"),
    ("0x4305", "batman-adv, version 15", "the frame inside of unicast and broadcast packets"),
    ("0x8847, 0x8848", "MPLS (RFC 3032)", "IP, or an Ethernet pseudowire (RFC 4448) with or without a control word"),
    ("0x8864", "PPPoE session (RFC 2516)", "IP and MPLS, with a protocol field of two bytes or one"),
    ("0x8899", "Realtek's switch tag", "protocols 0x04 and 0xa"),
    ("0x88e5", "MACsec (IEEE 802.1AE)", "what is authenticated only, with or without a channel identifier"),
    ("0x894f", "NSH (RFC 8300)", "IP, MPLS, a frame, or NSH again"),
    ("0xd28b", "Arista's timestamp", "timestamps of 64 and 48 bits"),
)

_HEAD = """# Links

Made from `bpf/link_headers.h` and `otel_epping/replay/capture/links.py` by `make docs`; edit there.
`python tests/oracles links` compares the headers that the tests build with tshark and tcpdump.

A packet that is not IP counts as `non_ip`, one whose headers are not whole as `malformed` (`epping.packet.kind`).

## Headers between Ethernet and IP

Live and in `replay`, up to 8 of these headers in any order. A header that is named here and has fewer than 8 bytes
behind its EtherType makes a packet malformed.

| EtherType | header |
|---|---|
"""

_BETWEEN = """
These have no fixed size:

| EtherType | header | what is read |
|---|---|---|
"""

_UNREAD = """
Not read:

- What is encrypted: MACsec with bit E or C.
- PPP in PPPoE that is compressed (Van Jacobson) or multilink (RFC 1990).
- A pseudowire without a control word, if the destination address begins with the digit 4 or 6: the labels do not say
  what they carry, and RFC 4928 has this digit for IP.
- A switch tag that has no EtherType in front (DSA, Broadcom, MediaTek), on the interface between host and switch:
  watch the interfaces of the switch's ports.
- Inside of VXLAN, GRE and IP-in-IP, unless `--tunnels` is set; there at most one 802.1Q tag.

Trailers need nothing: IP has a length of its own. A PPPoE or 802.3 length that is shorter ends the packet.

An interface that has no Ethernet header (PPP, tun, GRE, VTI and others) is read where the kernel has the network
header, as the protocol that the kernel has for the packet. [docs/platforms.md](platforms.md) has what was tried.

## Fragments

The first fragment of a packet has the transport header, so it counts as TCP, UDP or ICMP, and begins or ends RTTs.
All others count as `fragment`, and so does a first one that has not all of the transport header. Nobody knows where a
TCP segment in fragments ends: method `tcp_sequence` times none, and what follows such a segment is behind a gap.

## Link types of captures

| number | link type |
|---|---|
"""

_ENVELOPES = """
Of IEEE 802.11, data frames are read that are neither encrypted nor in fragments; all else counts as `non_ip`. Of an
A-MSDU, the first packet is read.

Packets of all other link types are left out. `replay` reads the rest, names the link types, and ends with exit code
1. Capture with another link type (`tcpdump -L` lists those of an interface, `tcpdump -y` chooses one). Where a header
of a fixed size is in front of Ethernet or IP, `editcap -C BYTES -T ether` or `-T rawip` takes it off. These are known
by name:

| number | link type |
|---|---|
"""


def fixed_headers() -> list[tuple[str, str]]:
    """EtherType and name of each row of EACH_FIXED_HEADER."""
    text = (source_folder() / "link_headers.h").read_text()
    return [(f"0x{ethertype}", name) for ethertype, name in _ROW.findall(text)]


def markdown() -> str:
    """The text of docs/links.md."""
    fixed = "".join(f"| {ethertype} | {name} |\n" for ethertype, name in fixed_headers())
    variable = "".join(f"| {' | '.join(row)} |\n" for row in VARIABLE)
    read = "".join(f"| {number} | {link.name} |\n" for number, link in links.LINKS.items())
    refused = "".join(f"| {number} | {name} |\n" for number, name in links.REFUSED.items())
    return _HEAD + fixed + _BETWEEN + variable + _UNREAD + read + _ENVELOPES + refused


if __name__ == "__main__":
    print(markdown(), end="")
