# SPDX-License-Identifier: Apache-2.0
"""Explains why the table is empty, or why networks have no RTTs."""

from collections.abc import Iterator, Sequence

import numpy as np

from otel_epping.history.total import Total
from otel_epping.otel import metric_table
from otel_epping.top.frame import Frame

_MAX_OTHERS = 4
_NEARLY_ALL = 0.9
_KINDS = ("tcp", "udp", "icmp", "other", "fragment", "non_ip", "malformed")


def reasons(
    frame: Frame,
    name: str,
    faults: Sequence[str] = (),
    others: Sequence[tuple[str, float]] = (),
    causes: Sequence[str] = (),
    *,
    is_live: bool,
) -> list[str]:
    """Returns sentences that explain why there are no RTTs. Returns [] if there are RTTs. The cause comes first.

    name    the interfaces or the capture
    faults  the faults of interfaces and hooks
    others  (name, packets per second) of other interfaces with traffic
    causes  the causes that are known from reading the capture (History.causes)
    """
    if frame.statistics.samples.any():
        return []
    return [*faults, *(_of_methods(frame.total) or _reasons(frame, name, others, causes, is_live=is_live))]


def _of_methods(total: Total) -> list[str]:
    """Returns a sentence if there are RTTs, but no RTTs of the methods of the filter."""
    numbers = {method: int(total.rtts([method]).counts.sum()) for method in total.methods}
    found = ", ".join(f"{method or 'all'} {number:,}" for method, number in numbers.items() if number)
    return [f"No RTT has a method of the filter. RTTs by method: {found}."] if found else []


def _reasons(
    frame: Frame, name: str, others: Sequence[tuple[str, float]], causes: Sequence[str], *, is_live: bool
) -> Iterator[str]:
    total = frame.total
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
    # The minimum RTT of a frame is the minimum RTT of the session.
    has_earlier = bool(np.isfinite(frame.statistics.minimum).any())
    known = [*causes, *_causes(total, kinds, packets)]
    yield from known
    seen = "1 packet was" if packets == 1 else f"{packets:,.0f} packets were"
    yield f"{seen} seen on {name}, but no RTT was measured{' in this window' if has_earlier else ''}."
    if not known and is_live and not has_earlier:
        yield "The first RTT appears when a packet gets a reply."


def _causes(total: Total, kinds: dict[str, float], packets: float) -> Iterator[str]:
    if not packets - kinds["non_ip"] - kinds["malformed"]:
        yield "No packet is an IP packet."
        return
    yield from _of_directions(total)
    if not kinds["tcp"]:
        yield f"No packet is a TCP packet: {_shares(kinds, packets)}. Only TCP, DNS, QUIC and ICMP echo are measured."
        return
    timed = total.sum(metric_table.SUBNET_PACKETS.name, traffic_class="tcp_timestamp")
    if timed is None or not np.any(timed):
        yield "No TCP packet has timestamps, so RTTs are measured less often, by sequence numbers and handshakes."


def _of_directions(total: Total) -> Iterator[str]:
    """Yields a sentence if nearly all TCP flows have packets of one end only."""
    same_way = total.agent_sum(metric_table.UNIDIRECTIONAL.name, reverse="same_way") or 0
    missing = total.agent_sum(metric_table.UNIDIRECTIONAL.name, reverse="missing") or 0
    # Each flow is counted at both ends.
    ends = total.sum(metric_table.ACTIVE_FLOWS.name)
    flows = 0.0 if ends is None else float(ends.sum()) / 2
    if same_way > missing:
        yield "Packets of both directions arrive at the interface, as at a mirror port: use --mirror instead of -i."
    elif missing and missing >= _NEARLY_ALL * flows:
        yield (
            "Only one direction of the traffic passes the interface, as with asymmetric routing. An RTT needs both "
            "directions."
        )


def _shares(kinds: dict[str, float], packets: float) -> str:
    return ", ".join(f"{kind} {count / packets:.0%}" for kind, count in kinds.items() if count)
