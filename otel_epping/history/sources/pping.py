# SPDX-License-Identifier: Apache-2.0
"""Reads the JSON output of ePPing: histograms of subnets (`pping -a`), or single RTTs.

The formats are defined in pping/pping.c of github.com/xdp-project/bpf-examples (print_aggstats_json(),
print_event_json()). `-F json` writes one array, and `-F jsonl` writes an object per line. `otel-epping watch` and
`otel-epping replay --events` write the same objects for single RTTs. docs/recordings.md describes the used fields.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from otel_epping.errors import EppingError
from otel_epping.history.columns import ColumnKey
from otel_epping.history.history import History
from otel_epping.history.line import OVERFLOW, Line
from otel_epping.history.sources.pping_json import DAMAGED_METADATA, Amounts, PpingObject, objects
from otel_epping.history.sources.reading import InputFile
from otel_epping.history.sources.slice_builder import SliceBuilder
from otel_epping.kernel.buckets import RTT_MIN_NS, index_of
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.metric import Metric

_S = 10**9
_SCALE = 4
# If the sum of the RTTs of a subnet in an interval is greater, the object is damaged.
_MAX_SUM_NS = 2**58
# ePPing's defaults (pping.h, pping.c).
_BIN_WIDTH_NS, _INTERVAL_NS = 4_000_000, 10 * _S
_PREFIX_LENGTHS = {4: 24, 6: 48}
# The possible lengths of slices of single RTTs. The shortest length with at most _MAX_SLICES slices is used.
_STEPS_NS = tuple(each * _S for each in (1, 2, 10, 20, 60, 120, 600, 1_200, 3_600, 86_400))
_MAX_SLICES = 500

_DIRECTIONS = {"rx_stats": "from", "tx_stats": "to"}
_CLASSES = {"TCP_TS": "tcp_timestamp", "TCP_noTS": "tcp_other", "other": "other"}
_KINDS = {"non_IP": "non_ip", "TCP": "tcp", "UDP": "udp", "ICMP": "icmp", "ICMPv6": "icmp"}
_CODEPOINTS = {"no_ECT": "not_ect", "ECT1": "ect_1", "ECT0": "ect_0", "CE": "ce"}
_MAPS = {"create_flow_state": "flows", "create_agg_subnet_state": "subnets"}
_METHODS = {"TCP": "tcp_timestamp", "ICMP": "icmp_echo", "ICMPv6": "icmp_echo"}


@dataclass
class _Buckets:
    """The RTTs of a line and method in a slice."""

    counts: Counter[int] = field(default_factory=Counter)
    sum_ns: int = 0
    min_ns: int = 0
    max_ns: int = 0


class _Reader:
    """Reads objects into a history.

    widths_ns  the widths of the bins in which RTTs were counted
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._numbering = history.numbering
        # The width of the bins is 0 if the width is unknown, because the metadata are damaged.
        self._bin_width_ns, self._interval_ns = _BIN_WIDTH_NS, _INTERVAL_NS
        self._lengths = dict(_PREFIX_LENGTHS)
        self._builder = SliceBuilder()
        self._time_ns = 0  # time of the current report
        self._reported_ns = 0  # time of the previous report or of the metadata
        self._reports: set[tuple[int, int]] = set()  # the time and the digest of each report
        self._step = 0
        self._begin_ns = 0  # begin of the current slice of single RTTs
        self._rtts: dict[tuple[int, int], _Buckets] = {}
        self.widths_ns: set[int] = set()
        self.unknown = self.flow_events = self.repeated = self.no_width = 0

    def read(self, file: InputFile) -> None:
        """Reads a file, and closes it."""
        for found in objects(file):
            if found is DAMAGED_METADATA:
                self._end_report()
                self._bin_width_ns = 0
            if found is None or found.timestamp is None or found.timestamp <= 0:
                self.unknown += 1
                continue
            try:
                self._add(found, found.timestamp)
            except ValueError:  # the address, the prefix or the sum of RTTs is invalid
                self.unknown += 1
        file.close()
        self._end_report()
        self._end_rtts()
        self._reported_ns = self._time_ns = 0

    def notes(self) -> Iterator[str]:
        """Yields sentences about the resolution of the RTTs, and about data that are not used."""
        for width_ns in sorted(self.widths_ns):
            yield (
                f"ePPing counted RTTs in bins of {width_ns / 1e6:g} ms, so RTTs and their quantiles have an error of "
                f"up to {width_ns / 2e6:g} ms; minimum and maximum are exact"
            )
        if self.flow_events:
            yield f"events of flows that open or close, which are not used: {self.flow_events:,}"
        if self.repeated:
            yield f"reports of ePPing that are not used, because they are repeated: {self.repeated:,}"
        if self.no_width:
            yield f"histograms of RTTs that are not used, because the width of the bins is damaged: {self.no_width:,}"
        if self.unknown:
            yield f"objects that are not used, because they are damaged or not of ePPing: {self.unknown:,}"

    def _add(self, found: PpingObject, time_ns: int) -> None:
        if found.rtt is not None:
            self._add_rtt(found, time_ns, found.rtt)
        elif found.flow_event is not None:
            self.flow_events += 1
        elif found.ip_prefix is not None:
            line = _line(found.ip_prefix, self._lengths[4], self._lengths[6])
            if found.mean_rtt * sum(found.histogram) > _MAX_SUM_NS:
                raise ValueError
            self._begin_report(time_ns)
            self._add_subnet(found, self._numbering.lines.find(line))
        elif found.protocol_counters is not None:
            self._begin_report(time_ns)
            self._add_interface(found, found.protocol_counters)
        elif found.bin_width_ns > 0:
            self._end_report()
            self._bin_width_ns = found.bin_width_ns
            self._interval_ns = found.aggregation_interval_ns or _INTERVAL_NS
            lengths = {4: found.ipv4_prefix_len, 6: found.ipv6_prefix_len}
            self._lengths |= {family: length for family, length in lengths.items() if length is not None}
            self._reported_ns = time_ns
        else:
            self.unknown += 1

    # ---- aggregated output

    def _begin_report(self, time_ns: int) -> None:
        """Ends the current report if an object belongs to another report.

        The objects of one report can have slightly different times, because ePPing converts the time of the report to
        Unix time for each object.
        """
        if self._time_ns and abs(time_ns - self._time_ns) > self._interval_ns // 2:
            self._end_report()
        self._time_ns = self._time_ns or time_ns

    def _end_report(self) -> None:
        if not self._time_ns:
            return
        begin_ns = self._time_ns - self._interval_ns
        # The first report, and each report after a gap, begins one interval before the end of the report.
        if 0 < self._time_ns - self._reported_ns < 2 * self._interval_ns:
            begin_ns = self._reported_ns
        if (report := (self._time_ns, self._builder.digest())) in self._reports:
            self.repeated += 1
        else:
            self._reports.add(report)
            self._history.add(self._builder.build(begin_ns, self._time_ns))
        self._builder = SliceBuilder()
        self._reported_ns, self._time_ns = self._time_ns, 0

    def _add_subnet(self, found: PpingObject, line: int) -> None:
        for name, direction in _DIRECTIONS.items():
            for traffic, amounts in getattr(found, name).items():
                self._add_amounts(line, amounts, direction, traffic_class=_CLASSES.get(traffic, "other"))
        self._add_amounts(line, {"packets": found.rx_packets, "bytes": found.rx_bytes}, "to")
        self._add_amounts(line, {"packets": found.tx_packets, "bytes": found.tx_bytes}, "from")
        if not any(found.histogram):
            return
        if not self._bin_width_ns:
            self.no_width += 1
            return
        self.widths_ns.add(self._bin_width_ns)
        counts: Counter[int] = Counter()
        for number, count in enumerate(found.histogram):
            if count:
                counts[self._bucket(number, len(found.histogram), found)] += count
        first = min(counts)
        row = [counts[index] for index in range(first, max(counts) + 1)]
        self._builder.add_rtts(
            line,
            self._numbering.methods.find(""),
            _SCALE,
            first,
            row,
            sum_ns=round(found.mean_rtt * sum(row)),
            min_ns=found.min_rtt,
            max_ns=found.max_rtt,
        )

    def _bucket(self, number: int, bins: int, found: PpingObject) -> int:
        """Returns the bucket of the middle of the part of a bin that can contain RTTs.

        If the minimum RTT is in the bin, the part begins at the minimum RTT. The last bin also counts longer RTTs, so
        the part of the last bin ends at the maximum RTT.
        """
        lower, upper = number * self._bin_width_ns, (number + 1) * self._bin_width_ns
        upper = found.max_rtt if number == bins - 1 and found.max_rtt > lower else upper
        return _index((max(lower, min(found.min_rtt, upper)) + upper) // 2)

    def _add_amounts(self, line: int, amounts: Amounts, direction: str, **attributes: str) -> None:
        for name, metric in (("packets", metric_table.SUBNET_PACKETS), ("bytes", metric_table.SUBNET_BYTES)):
            if count := amounts.get(name, 0):
                column = self._numbering.columns.find(_column(metric, direction=direction, **attributes))
                self._builder.add_counter(line, column, count)

    def _add_interface(self, found: PpingObject, protocols: dict[str, Amounts]) -> None:
        for protocol, amounts in protocols.items():
            kind = _KINDS.get(protocol, "other")
            self._add_agent(_column(metric_table.INTERFACE_PACKETS, kind=kind), amounts.get("packets", 0))
            self._add_agent(_column(metric_table.INTERFACE_BYTES, kind=kind), amounts.get("bytes", 0))
        for name, codepoint in _CODEPOINTS.items():
            self._add_agent(_column(metric_table.ECN_PACKETS, ecn=codepoint), found.ecn_counters.get(name, 0))
        for name, table in _MAPS.items():
            self._add_agent(_column(metric_table.INSERT_FAILED, map=table), found.errors.get(name, 0))

    def _add_agent(self, column: ColumnKey, count: int) -> None:
        if count:
            self._builder.agent[column] = self._builder.agent.get(column, 0) + count

    # ---- single RTTs

    def _add_rtt(self, found: PpingObject, time_ns: int, rtt_ns: int) -> None:
        line = self._numbering.lines.find(_line(found.src_ip, self._lengths[4], self._lengths[6]))
        if not 0 <= time_ns - self._begin_ns < _STEPS_NS[self._step]:
            self._end_rtts()  # can increase the length of slices
            self._begin_ns = time_ns // _STEPS_NS[self._step] * _STEPS_NS[self._step]
        method = self._numbering.methods.find(found.method or _METHODS.get(found.protocol, ""))
        buckets = self._rtts.setdefault((line, method), _Buckets())
        buckets.counts[_index(rtt_ns)] += 1
        buckets.sum_ns += rtt_ns
        buckets.min_ns = min(buckets.min_ns or rtt_ns, rtt_ns)
        buckets.max_ns = max(buckets.max_ns, rtt_ns)

    def _end_rtts(self) -> None:
        if not self._rtts:
            return
        builder = SliceBuilder()
        for (line, method), each in self._rtts.items():
            first = min(each.counts)
            row = [each.counts[index] for index in range(first, max(each.counts) + 1)]
            times = {"sum_ns": each.sum_ns, "min_ns": each.min_ns, "max_ns": each.max_ns}
            builder.add_rtts(line, method, _SCALE, first, row, **times)
        self._history.add(builder.build(self._begin_ns, self._begin_ns + _STEPS_NS[self._step]))
        self._rtts.clear()
        self._begin_ns = 0
        while len(self._history) > _MAX_SLICES and self._step < len(_STEPS_NS) - 1:
            self._step += 1
            self._history.coarsen(_STEPS_NS[self._step])


def _index(time_ns: int) -> int:
    return index_of(max(time_ns, RTT_MIN_NS), _SCALE)


def _column(metric: Metric, **attributes: str) -> ColumnKey:
    return ColumnKey(metric.name, tuple(sorted(attributes.items())))


@lru_cache(65536)
def _line(text: str, length_v4: int, length_v6: int) -> Line:
    """Returns the line of a prefix or an address. ePPing counts subnets over the limit for 0.0.0.0/0 and ::/0."""
    lengths = {4: length_v4, 6: length_v6}
    network = ipaddress.ip_network(text, strict=False)
    if "/" not in text:
        network = network.supernet(new_prefix=lengths[network.version])
    elif network.prefixlen == 0 and lengths[network.version]:
        return Line(OVERFLOW)
    return Line(subnet=str(network), network_type=semconv.FAMILIES[network.version])


def read_pping(files: Sequence[InputFile]) -> History:
    """Returns the history of files with JSON output of ePPing. Raises EppingError if no file has usable counts."""
    history = History()
    reader = _Reader(history)
    for file in files:
        reader.read(file)
        if file.damage:
            history.notes.append(f"{file.name}: {file.damage}; only the data before the damage are used")
    history.notes.extend(reader.notes())
    history.bin_ns = max(reader.widths_ns, default=0)
    if not len(history):
        causes = ": " + "; ".join(history.notes) if history.notes else ""
        raise EppingError(f"{', '.join(file.name for file in files)}: no RTTs or counts of ePPing{causes}")
    return history
