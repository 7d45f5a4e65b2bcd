# SPDX-License-Identifier: Apache-2.0
"""The sections about packets: traffic features, and coverage with the causes of missing RTTs."""

from collections.abc import Iterator

import numpy as np

from otel_epping.history.line import OVERFLOW, UNANSWERED
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.metric import Metric
from otel_epping.report.document import Figure, ReportColumn, ReportTable, Section, Value
from otel_epping.report.measurement import Measured
from otel_epping.report.text import count, percent, plural

_CLASSES = {
    "tcp_timestamp": "TCP with timestamps",
    "tcp_other": "TCP without timestamps",
    "udp": "UDP",
    "icmp": "ICMP",
    "other": "other protocols and fragments",
}
_CODEPOINTS = {"ect_0": "ECT(0)", "ect_1": "ECT(1)", "ce": "CE (congestion)"}
_NO_CLASS = "unknown: networks that never answered, or without their own line"
_EXPORT_ALL = "With the option --metrics all, an agent exports these counts."
_NOT_TCP_TIMESTAMP = "TCP packets without timestamps: RTTs are measured with handshakes and sequence numbers only"


def _sum(measurement: Measured, metric: Metric, **attributes: str) -> int | None:
    """Returns the sum of a metric over all lines, or None if the source does not have the metric."""
    found = measurement.total.sum(metric.name, **attributes)
    return None if found is None else int(found.sum())


def _agent(measurement: Measured, metric: Metric, **attributes: str) -> int | None:
    found = measurement.total.agent_sum(metric.name, **attributes)
    return None if found is None else round(found)


def _share(part: int | None, whole: int | None) -> float | None:
    return part / whole if part is not None and whole else None


def features(measurement: Measured) -> Section:
    """Returns the section about protocols, timestamps, ECN and retransmissions.

    Each packet is counted for the networks of both endpoints. So the sums over all networks are equal in both
    directions.
    """
    packets, octets = (_sum(measurement, each) for each in (metric_table.SUBNET_PACKETS, metric_table.SUBNET_BYTES))
    rows: list[list[Value]] = []
    for name, text in _CLASSES.items():
        number = _sum(measurement, metric_table.SUBNET_PACKETS, traffic_class=name)
        size = _sum(measurement, metric_table.SUBNET_BYTES, traffic_class=name)
        if number or size:
            rows.append([text, number, _share(number, packets), size, _share(size, octets)])
    if rows:
        rest, rest_bytes = (_rest(whole, [row[place] for row in rows]) for whole, place in ((packets, 1), (octets, 3)))
        if rest or rest_bytes:
            rows.append([_NO_CLASS, rest, _share(rest, packets), rest_bytes, _share(rest_bytes, octets)])
    columns = [
        ReportColumn("protocol", "protocol", "text"),
        ReportColumn("packets", "packets", "count"),
        ReportColumn("packet_share", "packets", "share"),
        ReportColumn("bytes", "traffic", "bytes"),
        ReportColumn("byte_share", "traffic", "share"),
    ]
    caption = plural(packets or 0, "packet") + " (each packet counts twice: for its source and for its destination)"
    sentences = []
    if not packets:
        sentences.append("The source has no counts of packets.")
    elif not rows:
        sentences.append(f"The source has no counts per protocol. {_EXPORT_ALL}")
    tables = [ReportTable("protocols", caption, columns, rows)] if rows else []
    tables.extend(_tcp_and_ecn(measurement))
    figures = [_bars(rows, caption)] if rows else []
    return Section("features", "Traffic features", sentences, figures, tables)


def _rest(whole: int | None, parts: list[Value]) -> int | None:
    return None if whole is None else whole - sum(int(each or 0) for each in parts)


def _bars(rows: list[list[Value]], caption: str) -> Figure:
    parts = [{"name": row[0], "shares": [row[2] or 0, row[4] or 0]} for row in rows]
    return Figure("protocols", "stacked", "Protocols", caption, {"labels": ["packets", "traffic"], "parts": parts})


def _tcp_and_ecn(measurement: Measured) -> Iterator[ReportTable]:
    packets = metric_table.SUBNET_PACKETS
    classes = [_sum(measurement, packets, traffic_class=each) for each in ("tcp_timestamp", "tcp_other")]
    segments, all_packets = sum(each or 0 for each in classes), _sum(measurement, packets)
    counted = [
        (text, _sum(measurement, metric), segments, "TCP segments")
        for metric, text in (
            (metric_table.RETRANSMITTED, "retransmitted segments"),
            (metric_table.OUT_OF_ORDER, "out-of-order segments"),
            (metric_table.ZERO_WINDOW, "segments with a window of zero"),
        )
    ]
    counted += [
        (f"ECN {text}", _sum(measurement, metric_table.SUBNET_ECN, ecn=name), all_packets or 0, "packets")
        for name, text in _CODEPOINTS.items()
    ]
    rows: list[list[Value]] = [
        [text, number, _share(number, whole), f"{count(whole)} {what}"]
        for text, number, whole, what in counted
        if number is not None
    ]
    columns = [
        ReportColumn("feature", "feature", "text"),
        ReportColumn("number", "packets", "count"),
        ReportColumn("share", "share", "share"),
        ReportColumn("of", "of", "text"),
    ]
    if rows:
        yield ReportTable("tcp_and_ecn", "TCP and ECN", columns, rows)


def coverage(measurement: Measured) -> Section:
    """Returns the section about the RTTs of each method, and about the causes of missing RTTs."""
    with_timestamps = _sum(measurement, metric_table.SUBNET_PACKETS, traffic_class="tcp_timestamp")
    without = _sum(measurement, metric_table.SUBNET_PACKETS, traffic_class="tcp_other")
    tcp = (with_timestamps or 0) + (without or 0)
    sentences = []
    if tcp:
        sentences.append(
            f"{percent((with_timestamps or 0) / tcp)} % of {plural(tcp, 'TCP packet')} have timestamps. The RTTs of "
            "flows with timestamps are measured continuously."
        )
    else:
        sentences.append("The source has no counts of TCP packets, so the coverage is unknown. " + _EXPORT_ALL)
    answered = measurement.statistics.samples[measurement.networks] > 0
    sentences.append(
        f"Networks with RTTs: {count(int(answered.sum()))} of {count(len(measurement.networks))}. "
        f"RTTs: {count(measurement.samples)}."
    )
    tables = [_methods(measurement)]
    reasons: list[list[Value]] = [row for row in _reasons(measurement, without, tcp) if row[1]]
    columns = [
        ReportColumn("reason", "cause", "text"),
        ReportColumn("number", "number", "count"),
        ReportColumn("share", "share", "share"),
        ReportColumn("of", "of", "text"),
    ]
    if reasons:
        tables.append(ReportTable("not_measured", "Causes of missing RTTs", columns, reasons))
    else:
        sentences.append("The source does not say why RTTs are missing.")
    return Section("coverage", "Coverage, and causes of missing RTTs", sentences, tables=tables)


def _methods(measurement: Measured) -> ReportTable:
    rows: list[list[Value]] = []
    for method in sorted(measurement.total.methods):
        rtts = measurement.total.rtts([method])
        samples = int(rtts.counts.sum())
        known = int(np.count_nonzero(rtts.counts[measurement.networks]))
        if samples:
            rows.append([method or "all methods", samples, _share(samples, measurement.samples), known])
    rows.sort(key=lambda row: -int(row[1] or 0))
    columns = [
        ReportColumn("method", "method", "text"),
        ReportColumn("samples", "RTTs", "count"),
        ReportColumn("share", "RTTs", "share"),
        ReportColumn("networks", "networks", "count"),
    ]
    return ReportTable("methods", f"Methods: {plural(measurement.samples, 'RTT')}", columns, rows)


def _reasons(measurement: Measured, without: int | None, tcp: int) -> Iterator[list[Value]]:
    """Yields (cause, number, share, unit of the whole) for each cause of missing RTTs."""
    yield [_NOT_TCP_TIMESTAMP, without, _share(without, tcp), "TCP packets"]
    outcomes = semconv.ATTRIBUTES[semconv.OUTCOME].values
    begun = _agent(measurement, metric_table.MEASUREMENTS, outcome="begun")
    for outcome in ("superseded", "repeated", "expired", "abandoned", "not_begun"):
        number = _agent(measurement, metric_table.MEASUREMENTS, outcome=outcome)
        yield [f"RTT samples without a result: {outcomes[outcome]}", number, _share(number, begun), "started samples"]
    kinds = {
        "non_ip": "packets without an IP header",
        "malformed": "malformed packets",
        "fragment": "IP fragments except the first",
    }
    seen = _agent(measurement, metric_table.INTERFACE_PACKETS)
    for kind, text in kinds.items():
        number = _agent(measurement, metric_table.INTERFACE_PACKETS, kind=kind)
        yield [text, number, _share(number, seen), "packets"]
    faults = semconv.ATTRIBUTES[semconv.TIMESTAMP_FAULT].values
    for fault, text in faults.items():
        number = _agent(measurement, metric_table.TIMESTAMPS_FAILED, fault=fault)
        yield [f"flow directions whose timestamps stopped working: {text}", number, None, ""]
    for reverse, text in semconv.ATTRIBUTES[semconv.FLOW_REVERSE].values.items():
        number = _agent(measurement, metric_table.UNIDIRECTIONAL, reverse=reverse)
        yield [f"flows in one direction only: {text}", number, None, ""]
    yield ["duplicate packets, which are measured only once", _agent(measurement, metric_table.DUPLICATES), None, ""]
    yield ["RTTs outside the range of the histograms", _agent(measurement, metric_table.CLAMPED), None, ""]
    yield [
        "entries that could not be inserted, because a table was full",
        _agent(measurement, metric_table.INSERT_FAILED),
        None,
        "",
    ]
    yield from _aggregates(measurement)


def _aggregates(measurement: Measured) -> Iterator[list[Value]]:
    packets = measurement.total.sum(metric_table.SUBNET_PACKETS.name)
    if packets is None:
        return
    whole = int(packets.sum())
    texts = {
        UNANSWERED: "packets of networks that never answered",
        OVERFLOW: "packets of networks without their own line, because a limit was reached",
    }
    for line, text in texts.items():
        number = sum(int(packets[place]) for place, each in enumerate(measurement.lines) if each.kind == line)
        yield [text, number, _share(number, whole), "packets"]
