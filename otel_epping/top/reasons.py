# SPDX-License-Identifier: Apache-2.0
"""Explains why the table is empty, or why networks have no RTTs."""

from collections.abc import Iterator, Sequence

import numpy as np

from otel_epping.history.total import Total
from otel_epping.otel import metric_table
from otel_epping.top.frame import Frame

_MAX_OTHERS = 4
_KINDS = ("tcp", "udp", "icmp", "other", "fragment", "non_ip", "malformed")


def reasons(
    frame: Frame, name: str, faults: Sequence[str] = (), others: Sequence[tuple[str, float]] = (), *, is_live: bool
) -> list[str]:
    """Returns sentences that explain why there are no RTTs. Returns [] if there are RTTs.

    name    the interfaces or the capture
    faults  the faults of interfaces and hooks
    others  (name, packets per second) of other interfaces with traffic
    """
    if frame.statistics.samples.any():
        return []
    return [*faults, *_reasons(frame.total, name, others, is_live=is_live)]


def _reasons(total: Total, name: str, others: Sequence[tuple[str, float]], *, is_live: bool) -> Iterator[str]:
    kinds = {kind: total.agent_sum(metric_table.INTERFACE_PACKETS.name, kind=kind) or 0 for kind in _KINDS}
    packets = sum(kinds.values())
    if not packets:
        yield f"No packet was seen on {name} in {total.seconds:.0f} s." if is_live else f"{name} contains no packet."
        if is_live and others:
            busy = ", ".join(f"{other} ({rate:,.0f} packets/s)" for other, rate in others[:_MAX_OTHERS])
            yield f"Interfaces with traffic: {busy}. Choose an interface with -i."
        elif is_live:
            yield "No other interface has traffic either."
        return
    seen = "1 packet was" if packets == 1 else f"{packets:,.0f} packets were"
    yield f"{seen} seen on {name}, but no round-trip time was measured yet."
    if not packets - kinds["non_ip"] - kinds["malformed"]:
        yield "No packet is an IP packet."
        return
    yield from _of_directions(total)
    tcp = kinds["tcp"]
    if not tcp:
        yield f"No packet is a TCP packet: {_shares(kinds, packets)}. Only TCP, DNS, QUIC and ICMP echo are measured."
        return
    timed = total.sum(metric_table.SUBNET_PACKETS.name, traffic_class="tcp_timestamp")
    if timed is None or not np.any(timed):
        yield "No TCP packet has timestamps, so RTTs are measured less often, by sequence numbers and handshakes."
    yield "The first RTT appears when a packet gets a reply."


def _of_directions(total: Total) -> Iterator[str]:
    ways = {
        way: total.agent_sum(metric_table.INTERFACE_PACKETS.name, direction=way, kind="tcp") or 0
        for way in ("receive", "transmit")
    }
    same_way = total.agent_sum(metric_table.UNIDIRECTIONAL.name, reverse="same_way") or 0
    missing = total.agent_sum(metric_table.UNIDIRECTIONAL.name, reverse="missing") or 0
    if same_way:
        yield "Packets of both directions arrive at the interface, as at a mirror port: use --mirror instead of -i."
    elif missing or (sum(ways.values()) > 0 and not all(ways.values())):
        yield (
            "Only one direction of the traffic passes the interface, as with asymmetric routing: an RTT needs both "
            "directions."
        )


def _shares(kinds: dict[str, float], packets: float) -> str:
    return ", ".join(f"{kind} {count / packets:.0%}" for kind, count in kinds.items() if count)
