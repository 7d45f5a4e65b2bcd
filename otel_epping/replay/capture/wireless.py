# SPDX-License-Identifier: Apache-2.0
"""IEEE 802.11 frames, and the headers that drivers put in front of them.

Only data frames that are not encrypted and not in fragments are read. Of an A-MSDU, which has several packets in one
frame, only the first packet is read.
"""

import numpy as np

from otel_epping.replay.capture.framing import CHECKSUM, behind, llc
from otel_epping.replay.capture.view import ETHERNET_HEADER, Mask, Meaning, View, known

# Frame control, IEEE 802.11 9.2.4.1: first byte, second byte
_VERSION_AND_TYPE, _DATA, _NO_DATA, _QOS = 0x0F, 0x08, 0x40, 0x80
_TO_AND_FROM, _MORE_FRAGMENTS, _PROTECTED, _ORDER = 0x03, 0x04, 0x40, 0x80
_FRAGMENT_NUMBER = 0x0F
_AGGREGATE = 0x80  # in the QoS control field
_LEAST_HEADER = 24

# https://www.radiotap.org/fields/defined
_HAS_TIME, _HAS_FLAGS, _MORE_PRESENT = 1 << 0, 1 << 1, 1 << 31
_FLAG_CHECKSUM, _FLAG_PADDED = 0x10, 0x20
_MOST_PRESENT = 16

_AVS_MAGIC = 0x8021
_PRISM_BYTES = 144


def frame(view: View) -> Meaning:
    """A frame without anything in front."""
    return _frame(view, np.zeros(len(view), bool))


def _frame(view: View, padded: Mask) -> Meaning:
    """`padded` says whether the driver fills up the header to words of 4 bytes."""
    control, flags = view.byte(0), view.byte(1)
    is_qos = control & _QOS != 0
    sizes = np.full(len(view), _LEAST_HEADER)
    sizes += np.where(flags & _TO_AND_FROM == _TO_AND_FROM, 6, 0)
    aggregate = is_qos & (view.byte(sizes) & _AGGREGATE != 0)
    sizes += np.where(is_qos, 2, 0) + np.where(is_qos & (flags & _ORDER != 0), 4, 0)
    sizes += np.where(padded, -sizes % 4, 0)
    sizes += np.where(aggregate, ETHERNET_HEADER, 0)
    readable = (control & (_VERSION_AND_TYPE | _NO_DATA) == _DATA) & (flags & (_MORE_FRAGMENTS | _PROTECTED) == 0)
    readable &= view.byte(22) & _FRAGMENT_NUMBER == 0
    return known(readable, behind(sizes, llc)(view))


def radiotap(view: View) -> Meaning:
    """https://www.radiotap.org: a length, and the fields that a bitmap names."""
    present = view.little(4, 4)
    fields = np.full(len(view), 8)
    more = present
    for _ in range(_MOST_PRESENT):
        another = more & _MORE_PRESENT != 0
        if not another.any():
            break
        more = np.where(another, view.little(fields, 4), 0)
        fields += np.where(another, 4, 0)
    # The time is of 8 bytes, and at a multiple of 8.
    fields = np.where(present & _HAS_TIME != 0, (fields + 7) // 8 * 8 + 8, fields)
    flags = np.where(present & _HAS_FLAGS != 0, view.byte(fields), 0)
    size = view.little(2, 2)
    found = known(size >= 8, _frame(view.behind(size), flags & _FLAG_PADDED != 0).behind(size))
    return Meaning(found.sizes, found.ethertypes, np.where(flags & _FLAG_CHECKSUM != 0, CHECKSUM, 0))


def prism(view: View) -> Meaning:
    """Either header of the Prism driver: that of AVS with a magic number, or the older one, of any byte order."""
    big, little = view.big(4, 4), view.little(4, 4)
    older = np.minimum(big, little)
    size = np.where(view.big(0) == _AVS_MAGIC, big, np.where(older == 0, _PRISM_BYTES, older))
    size = np.minimum(size, view.ends - view.starts)
    return behind(size, frame)(view)
