# SPDX-License-Identifier: Apache-2.0
"""Reads IEEE 802.11 frame headers, and the headers that drivers add before a frame header.

Only data frames that are neither encrypted nor fragmented are read. An A-MSDU is a frame that contains several packets.
Only the first packet of an A-MSDU is read.
"""

import numpy as np

from otel_epping.replay.capture.common_headers import CHECKSUM, after, llc
from otel_epping.replay.capture.packet_view import ETHERNET_HEADER, LinkHeaders, Mask, PacketView, only_if

# Values of the frame control field, IEEE 802.11 9.2.4.1. The first line contains values of the first byte of the field.
# The second line contains values of the second byte.
_VERSION_AND_TYPE, _DATA, _NO_DATA, _QOS = 0x0F, 0x08, 0x40, 0x80
_TO_AND_FROM, _MORE_FRAGMENTS, _PROTECTED, _ORDER = 0x03, 0x04, 0x40, 0x80
_FRAGMENT_NUMBER = 0x0F
_AGGREGATE = 0x80  # in the QoS control field
_MIN_HEADER_BYTES = 24

# https://www.radiotap.org/fields/defined
_HAS_TIME, _HAS_FLAGS, _MORE_PRESENT = 1 << 0, 1 << 1, 1 << 31
_FLAG_CHECKSUM, _FLAG_PADDED = 0x10, 0x20
_MAX_PRESENT = 16

_AVS_MAGIC = 0x8021
_PRISM_BYTES = 144


def frame(view: PacketView) -> LinkHeaders:
    """Reads a frame header, for packets without a driver header."""
    return _frame(view, np.zeros(len(view), bool))


def _frame(view: PacketView, padded: Mask) -> LinkHeaders:
    """Reads a frame header.

    `padded` is True for packets in which the driver has padded the header to a multiple of 4 bytes.
    """
    control, flags = view.byte(0), view.byte(1)
    is_qos = control & _QOS != 0
    sizes = np.full(len(view), _MIN_HEADER_BYTES)
    sizes += np.where(flags & _TO_AND_FROM == _TO_AND_FROM, 6, 0)
    aggregate = is_qos & (view.byte(sizes) & _AGGREGATE != 0)
    sizes += np.where(is_qos, 2, 0) + np.where(is_qos & (flags & _ORDER != 0), 4, 0)
    sizes += np.where(padded, -sizes % 4, 0)
    sizes += np.where(aggregate, ETHERNET_HEADER, 0)
    readable = (control & (_VERSION_AND_TYPE | _NO_DATA) == _DATA) & (flags & (_MORE_FRAGMENTS | _PROTECTED) == 0)
    readable &= view.byte(22) & _FRAGMENT_NUMBER == 0
    return only_if(readable, after(sizes, llc)(view))


def radiotap(view: PacketView) -> LinkHeaders:
    """Reads a radiotap header (https://www.radiotap.org), and the frame header after it.

    A radiotap header consists of a version, a length, a bitmap, and fields. The bitmap shows which fields are present.
    """
    present = view.little(4, 4)
    fields = np.full(len(view), 8)
    more = present
    for _ in range(_MAX_PRESENT):
        another = more & _MORE_PRESENT != 0
        if not another.any():
            break
        more = np.where(another, view.little(fields, 4), 0)
        fields += np.where(another, 4, 0)
    # The timestamp of a radiotap header has 8 bytes and is aligned to 8 bytes.
    fields = np.where(present & _HAS_TIME != 0, (fields + 7) // 8 * 8 + 8, fields)
    flags = np.where(present & _HAS_FLAGS != 0, view.byte(fields), 0)
    size = view.little(2, 2)
    found = only_if(size >= 8, _frame(view.skip(size), flags & _FLAG_PADDED != 0).preceded_by(size))
    return LinkHeaders(found.sizes, found.ethertypes, np.where(flags & _FLAG_CHECKSUM != 0, CHECKSUM, 0))


def prism(view: PacketView) -> LinkHeaders:
    """Reads an AVS header or the older Prism header, and the frame header after it.

    An AVS header begins with a magic number. The numbers in a Prism header may be big-endian or little-endian.
    """
    big, little = view.big(4, 4), view.little(4, 4)
    older = np.minimum(big, little)
    size = np.where(view.big(0) == _AVS_MAGIC, big, np.where(older == 0, _PRISM_BYTES, older))
    size = np.minimum(size, view.ends - view.starts)
    return after(size, frame)(view)
