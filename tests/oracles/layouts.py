# SPDX-License-Identifier: Apache-2.0
"""Checks that tshark or tcpdump can read the packets that tests/support/link_types.py and tests/long/fuzz/links.py
create.

These modules create every link type of captures, and every header between Ethernet and IP. For each link type and
header, there are two frames with one UDP packet each. At least one of the tools must find both packets by their ports.
UNREAD lists the link types and headers that neither tool can read, with the reasons. It is an error if a tool can read
an entry of UNREAD.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from otel_epping.errors import EppingError
from tests.long.fuzz import builders
from tests.oracles.report import Report
from tests.support.captures import BEGIN_NS, ETHERNET, Packet, pcap
from tests.support.link_types import LINKS

PACKETS = [
    bytes(IP(src="192.0.2.1", dst="198.51.100.2") / UDP(sport=1, dport=2) / b"data"),
    bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=3, dport=4) / b"more data"),
]
FOUND = "1 2 3 4"
TOOLS = {
    "tshark": ("tshark -n -T fields -e udp.srcport -e udp.dstport -r", r"(\d+)\t(\d+)"),
    "tcpdump": ("tcpdump -n -r", r"\.(\d+) > \S+\.(\d+): UDP"),
}
UNREAD = {
    "null of Linux": "10 is not an address family of any BSD, but libpcap on Linux writes the number that Linux uses",
    "null of Windows": "the tools read 23 as IPX, as on BSD",
    "ATM without LLC": "both tools read the header as LLC",
    "ATM with PPP": "both tools read the header as LLC",
    "DOCSIS": "tshark requires correct checksums",
    "DOCSIS with an extended header": "tshark requires correct checksums",
    "Cisco HDLC with direction": "no tool reads this link type",
    "Frame Relay with direction": "no tool reads this link type",
    "MPLS": "no tool reads MPLS as a link type",
    "NFLOG, big-endian": "both tools expect the byte order of the machine on which they run",
    "802.3br": "tshark requires correct checksums",
    "802.1Q of old, 0x9300": "no tool reads this header",
    "802.1Qau": "no tool reads this header",
    "Broadcom": "tshark shows only the tag",
    "DSA 802.1Q": "no tool reads this header",
    "ISL": "both tools identify ISL by its destination address, which the program does not read",
    "Marvell": "no tool reads this tag after an EtherType",
    "Realtek": "tshark shows only the tag",
    "Realtek, 8": "tshark shows only the tag",
    "TRILL label": "no tool reads this header alone",
    "pseudowire": "tshark expects a control word before every frame whose address starts with 0",
}


def check() -> Report:
    """Checks all link types and headers. Raises EppingError if a tool is not installed."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        raise EppingError(f"{' and '.join(missing)} not installed: apt-get install tshark tcpdump")
    report = Report("layouts of link headers")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "made.pcap"
        for name, link, frames in made():
            path.write_bytes(pcap([Packet(BEGIN_NS, frame, len(frame), link) for frame in frames], link=link))
            readers = [tool for tool in TOOLS if FOUND in found(tool, path)]
            report.tally[f"read by {' and '.join(readers) or 'no tool'}"] += 1
            if not readers and name not in UNREAD:
                report.errors.append(f"{name}: not read by any tool")
            if readers and name in UNREAD:
                report.errors.append(f"{name}: read by {' and '.join(readers)}, remove it from UNREAD")
    return report


def made() -> Iterator[tuple[str, int, list[bytes]]]:
    """Yields for each link type or header: its name, the link type of the capture, and two frames."""
    for name, (link, make) in LINKS.items():
        yield name, link, [make(packet) for packet in PACKETS]
    for name in builders.ALL_LINKS:
        headers = [builders.link((name,), version) for version in (4, 6)]
        frames = [header + packet for header, packet in zip(headers, PACKETS, strict=True)]
        yield (
            name,
            ETHERNET,
            [builders.with_session_length(frame, len(header)) for frame, header in zip(frames, headers, strict=True)],
        )


def found(tool: str, path: Path) -> str:
    """Returns the ports that a tool finds, in order."""
    command, pattern = TOOLS[tool]
    done = subprocess.run([*command.split(), str(path)], capture_output=True, text=True, errors="replace", check=False)
    return " ".join(port for ports in re.findall(pattern, done.stdout) for port in ports)
