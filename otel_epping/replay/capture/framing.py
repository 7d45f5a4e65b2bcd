# SPDX-License-Identifier: Apache-2.0
"""What most link headers have behind them: IP, an Ethernet frame, or LLC."""

import numpy as np

from otel_epping.replay.capture.batch import Numbers
from otel_epping.replay.capture.view import (
    ETHERNET_HEADER,
    IPV4,
    IPV6,
    UNKNOWN,
    Meaning,
    Reader,
    View,
    choose,
    fixed,
    table,
)

_BY_VERSION = table(16, {4: IPV4, 6: IPV6})
_SNAP = (0xAAAA03000000, 0xAAAA030000F8)  # with an EtherType: RFC 1042, IEEE 802.1H
_LLC_IP = 0x060603
CHECKSUM = 4  # bytes behind a frame


def raw(view: View) -> Meaning:
    """No header: the version of IP tells."""
    return fixed(0, _BY_VERSION[view.byte(0) >> 4])


def ethernet(view: View) -> Meaning:
    """An Ethernet header."""
    return fixed(ETHERNET_HEADER, view.big(12))


def with_checksum(read: Reader) -> Reader:
    """A reader that also cuts off the checksum at the end of the frame, which other captures do not have."""

    def read_with_checksum(view: View) -> Meaning:
        meaning = read(view)
        return Meaning(meaning.sizes, meaning.ethertypes, CHECKSUM)

    return read_with_checksum


def llc(view: View) -> Meaning:
    """IEEE 802.2: SNAP with an EtherType, or IP."""
    snap = choose(np.isin(view.big(0, 6), _SNAP), fixed(8, view.big(6)), fixed(0, view.zeros() + UNKNOWN))
    return choose(view.big(0, 3) == _LLC_IP, fixed(3, view.zeros() + IPV4), snap)


def behind(size: int | Numbers, read: Reader) -> Reader:
    """A reader that skips this number of bytes, or one of each packet, and reads what follows by `read`."""
    return lambda view: read(view.behind(size)).behind(size)
