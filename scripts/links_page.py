# SPDX-License-Identifier: Apache-2.0
"""Generates docs/links.md from the tables of the kernel program and of otel_epping/replay/capture.

`make docs` runs `python -m scripts.links_page`.
"""

import re

from otel_epping.kernel.load.loader import source_folder
from otel_epping.replay.capture import link_types

_ROW = re.compile(r"ROW\(0x([0-9a-f]+), \d+\)\s+/\* (.*?) \*/")
# The headers of variable size that read_link_header() (bpf/link_headers.h) supports. Each row has the EtherTypes, the
# name and the supported contents of a header.
VARIABLE = (
    (
        "0x0000 to 0x05dc, 0x8870",
        "802.3 with LLC (IEEE 802.2)",
        "SNAP with an EtherType (RFC 1042, 802.1H), IP, Cisco ISL",
    ),
    ("0x22f3", "TRILL (RFC 6325)", "an Ethernet frame, with or without TRILL options before it"),
    ("0x4305", "batman-adv, version 15", "an Ethernet frame in unicast and broadcast packets"),
    ("0x8847, 0x8848", "MPLS (RFC 3032)", "IP, or an Ethernet pseudowire (RFC 4448) with or without a control word"),
    ("0x8864", "PPPoE session (RFC 2516)", "IP and MPLS, with a PPP protocol field of one or two bytes"),
    ("0x8899", "Realtek switch tag", "protocols 0x04 and 0xa"),
    (
        "0x88e5",
        "MACsec (IEEE 802.1AE)",
        "frames that are authenticated but not encrypted, with or without a secure channel identifier (SCI)",
    ),
    ("0x894f", "NSH (RFC 8300)", "IP, MPLS, an Ethernet frame, or another NSH header"),
    ("0xd28b", "Arista timestamp", "timestamps of 64 and 48 bits"),
)

_HEAD = """# Links

This page lists the headers before the IP header that the kernel program reads, and the link types of captures that
`otel-epping replay` reads. `make docs` generates this page from `bpf/link_headers.h`,
`otel_epping/replay/capture/link_types.py` and `scripts/links_page.py`. To change the page, edit these files. The tests
build packets with the headers on this page. `python tests/oracles links` checks whether tshark or tcpdump can read the
packets of the tests.

A packet that does not contain IP counts as `non_ip`. A packet with incomplete headers counts as `malformed`. `non_ip`
and `malformed` are values of the attribute `epping.packet.kind`.

## Headers between Ethernet and IP

The program reads up to 8 of the headers in this table in any order, in live traffic and in captures. If fewer than 8
bytes follow the EtherType of a header in this table, the packet counts as `malformed`.

| EtherType | header |
|---|---|
"""

_BETWEEN = """
The following headers have a variable size:

| EtherType | header | supported contents |
|---|---|---|
"""

_NOT_READ = """
The program does not read these packets and headers:

- Encrypted packets: MACsec frames in which bit E or bit C is set.
- PPP frames in PPPoE that are compressed (Van Jacobson) or that use multilink (RFC 1990).
- Ethernet pseudowires without a control word, if the first hexadecimal digit of the destination MAC address is 4 or 6.
  An MPLS label does not say which protocol follows it. If the first hexadecimal digit after the label is 4 or 6,
  the program assumes that IP follows (RFC 4928).
- Switch tags without an EtherType before them (DSA, Broadcom, MediaTek), on the interface between host and switch.
  Instead of the interface between host and switch, watch the interfaces of the switch's ports.
- Packets inside VXLAN, GRE and IP-in-IP tunnels, unless `--tunnels` is set. Inside a tunnel, the program reads at most
  one 802.1Q tag.

The program ignores bytes after the end of the IP packet, because the IP header contains the length of the packet. If a
PPPoE or 802.3 header contains a smaller length than the IP header, the packet ends after the smaller length.

On interfaces without an Ethernet header (PPP, tun, GRE, VTI and others), the kernel gives the program the protocol and
the offset of the network header. [docs/platforms.md](platforms.md) lists the tested interfaces.

## Fragments

The first fragment of a packet contains the transport header. The first fragment counts as TCP, UDP or ICMP, and can
start or complete RTT samples. All other fragments count as `fragment`. A first fragment with an incomplete transport
header also counts as `fragment`. The program does not know where a fragmented TCP segment ends. So method
`tcp_sequence` does not measure a fragmented segment, and treats the next segment as if the previous segment were
missing.

## Link types of captures

| number | link type |
|---|---|
"""

_BETWEEN_LINK_TYPES = """
IEEE 802.11: `replay` reads data frames that are neither encrypted nor fragmented. All other frames count as `non_ip`.
If a frame is an A-MSDU, which contains several packets, `replay` reads only the first packet.

`replay` skips packets of link types that are not in the table above. `replay` reads the rest of the capture, reports
the link types of the skipped packets, and ends with exit code 1. To read traffic of an unsupported link type, capture
the traffic with another link type. `tcpdump -L` lists the link types of an interface, and `tcpdump -y` selects a link
type. If the unsupported header has a fixed size and is followed by Ethernet or IP, `editcap -C BYTES -T ether` or
`editcap -C BYTES -T rawip` removes the header.

The following link types are not supported. Error messages contain the names of these link types:

| number | link type |
|---|---|
"""


def fixed_headers() -> list[tuple[str, str]]:
    """Returns the EtherType and the name of each row of EACH_FIXED_HEADER in bpf/link_headers.h."""
    text = (source_folder() / "link_headers.h").read_text()
    return [(f"0x{ethertype}", name) for ethertype, name in _ROW.findall(text)]


def markdown() -> str:
    """Returns the text of docs/links.md."""
    fixed = "".join(f"| {ethertype} | {name} |\n" for ethertype, name in fixed_headers())
    variable = "".join(f"| {' | '.join(row)} |\n" for row in VARIABLE)
    supported = "".join(f"| {number} | {link_type.name} |\n" for number, link_type in link_types.LINK_TYPES.items())
    unsupported = "".join(f"| {number} | {name} |\n" for number, name in link_types.UNSUPPORTED.items())
    return _HEAD + fixed + _BETWEEN + variable + _NOT_READ + supported + _BETWEEN_LINK_TYPES + unsupported


if __name__ == "__main__":
    print(markdown(), end="")
