# SPDX-License-Identifier: Apache-2.0
"""Reads the headers that most other link headers contain: IP, Ethernet and LLC headers."""

import numpy as np

from otel_epping.replay.capture.packet_batch import Int64Array
from otel_epping.replay.capture.packet_view import (
    ETHERNET_HEADER,
    IPV4,
    IPV6,
    UNKNOWN,
    HeaderReader,
    LinkHeaders,
    PacketView,
    choose,
    fixed_size,
    lookup_table,
)

_BY_VERSION = lookup_table(16, {4: IPV4, 6: IPV6})
_SNAP = (0xAAAA03000000, 0xAAAA030000F8)  # followed by an EtherType: RFC 1042, IEEE 802.1H
_LLC_IP = 0x060603
CHECKSUM = 4
"""Size in bytes of the frame check sequence at the end of an Ethernet frame."""


def raw(view: PacketView) -> LinkHeaders:
    """Reads packets without a link header. Derives the EtherType from the IP version."""
    return fixed_size(0, _BY_VERSION[view.byte(0) >> 4])


def ethernet(view: PacketView) -> LinkHeaders:
    """Reads an Ethernet header."""
    return fixed_size(ETHERNET_HEADER, view.big(12))


def with_checksum(read: HeaderReader) -> HeaderReader:
    """Returns a reader for frames that end with a frame check sequence.

    `read` reads the headers of frames. The returned reader also reports the frame check sequence as a trailer. Most
    captures do not contain the frame check sequence, and do not need this reader.
    """

    def read_with_checksum(view: PacketView) -> LinkHeaders:
        headers = read(view)
        return LinkHeaders(headers.sizes, headers.ethertypes, CHECKSUM)

    return read_with_checksum


def llc(view: PacketView) -> LinkHeaders:
    """Reads an IEEE 802.2 LLC header.

    The LLC header is followed by an IP packet, or by a SNAP header with an EtherType.
    """
    unknown = fixed_size(0, view.zeros() + UNKNOWN)
    snap = choose(np.isin(view.big(0, 6), _SNAP), fixed_size(8, view.big(6)), unknown)
    return choose(view.big(0, 3) == _LLC_IP, fixed_size(3, view.zeros() + IPV4), snap)


def after(size: int | Int64Array, read: HeaderReader) -> HeaderReader:
    """Returns a reader that skips `size` bytes and applies `read` to the remaining bytes.

    `size` is one number for all packets, or an array of shape (packets,). The size of the link header includes the
    skipped bytes.
    """
    return lambda view: read(view.skip(size)).preceded_by(size)
