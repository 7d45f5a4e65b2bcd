# SPDX-License-Identifier: Apache-2.0
"""The panels of the dashboard, with their PromQL queries.

A line is a network on one side of one interface of one agent, as in docs/statistics.md. Lines are never merged, because
a forwarded packet is counted on each watched interface. The overflow point and the point of the subnets that never
answered belong to no network. Totals contain these two points, but no line contains them.

$agent, $interface, $side and $method select series. $group has the labels of a network. $window is the length of "now".
$baseline is the time from "before" to "now". docs/dashboards.md explains these variables.
"""

from typing import Literal, NamedTuple

Kind = Literal["stat", "timeseries", "heatmap", "status-history", "table"]

MIN_SAMPLES = 20
# A network is slower than before if its p95 is greater than before by this factor and also by this time.
SLOWER, SLOWER_S = 1.5, 0.002

_AGENT = 'instance=~"$agent"'
_INTERFACE = f'{_AGENT}, network_interface_name=~"$interface"'
_NOT_A_NETWORK = 'otel_metric_overflow="", epping_unanswered=""'
_SIDE = f'{_INTERFACE}, epping_rtt_side=~"$side"'
# By default, $side and $method select all values, and also the overflow point, which has neither label.
_RTT = f'epping_rtt_duration_seconds{{{_SIDE}, epping_rtt_method=~"$method"}}'
_RTT_OF_LINES = f'epping_rtt_duration_seconds{{{_SIDE}, epping_rtt_method=~"$method", {_NOT_A_NETWORK}}}'
_LINE = "instance, network_interface_name, epping_rtt_side, $group"
_LEGEND = (
    "{{epping_network_name}}{{epping_subnet}}{{network_peer_as_organization_name}}{{geo_country_iso_code}} "
    "{{epping_rtt_side}} {{network_interface_name}}"
)
_NOW, _STEP, _RANGE = "[$window]", "[$__rate_interval]", "[$__range]"
_BEFORE = f"{_NOW} offset $baseline"
# Selects TCP packets if packets have a class (metrics: core,traffic). Otherwise, the selector matches all packets.
_TCP = 'epping_traffic_class=~"(tcp_.*)?"'


class Query(NamedTuple):
    """A query. `legend` is the name of a series or of a column. If `unit` is set, it replaces the unit of the panel."""

    expr: str
    legend: str = ""
    unit: str = ""


class Panel(NamedTuple):
    """A panel. The dashboard is 24 units wide. `no_value` is the text that is shown if the queries have no result."""

    kind: Kind
    title: str
    description: str
    unit: str
    width: int
    height: int
    queries: list[Query]
    no_value: str = "no data"


def _counted(metric: str, *selectors: str, by: str, window: str) -> str:
    """Returns the rate of a counter, as a sum for each combination of labels."""
    return f"sum by ({by}) (rate({metric}{{{', '.join(selectors)}}}{window}))"


def _rtts(window: str) -> str:
    return f"sum by ({_LINE}) (rate({_RTT_OF_LINES}{window}))"


def _samples(window: str) -> str:
    return f"histogram_count(sum by ({_LINE}) (increase({_RTT_OF_LINES}{window})))"


def _quantile(q: float, window: str) -> str:
    """Returns a quantile of each line that has enough samples."""
    return f"(histogram_quantile({q}, {_rtts(window)}) and {_samples(window)} >= {MIN_SAMPLES})"


def _bytes(window: str) -> str:
    return _counted("epping_network_io_bytes_total", _SIDE, _NOT_A_NETWORK, by=_LINE, window=window)


def _impact(window: str) -> str:
    excess = f"(histogram_avg({_rtts(window)}) - histogram_quantile(0, {_rtts(_RANGE)}))"
    return f"{_bytes(window)} * clamp_min({excess}, 0)"


def _loss(direction: str, window: str) -> str:
    way = f'epping_traffic_direction="{direction}"'
    lost = _counted("epping_tcp_retransmission_count_total", _SIDE, way, by=_LINE, window=window)
    sent = _counted("epping_network_packet_count_total", _SIDE, way, _TCP, by=_LINE, window=window)
    return f"({lost} or 0 * {sent}) / ({sent} > 0)"  # the counter does not exist before the first retransmission


def _loss_of_all(window: str) -> str:
    # A segment is counted for the subnets of both endpoints. "to" counts each segment once on each interface.
    way = 'epping_traffic_direction="to"'
    lost = _counted("epping_tcp_retransmission_count_total", _INTERFACE, way, by="", window=window)
    sent = _counted("epping_interface_packet_count_total", _INTERFACE, 'epping_packet_kind="tcp"', by="", window=window)
    return f"({lost} or 0 * {sent}) / ({sent} > 0)"


def _samples_per_packet(window: str) -> str:
    by = "instance, network_interface_name"
    measured = _counted(
        "epping_agent_measurement_count_total",
        _INTERFACE,
        'epping_measurement_outcome="measured"',
        by=by,
        window=window,
    )
    tcp = _counted("epping_interface_packet_count_total", _INTERFACE, 'epping_packet_kind="tcp"', by=by, window=window)
    return f"{measured} / ({tcp} > 0)"


def _all_samples(*selectors: str) -> str:
    rtts = f"epping_rtt_duration_seconds{{{', '.join(selectors)}}}"
    return f"sum by (instance) (histogram_count(rate({rtts}{_STEP})))"


def _top(count: int, ranked: str, shown: str) -> str:
    """Returns the values of the lines that have the greatest rank."""
    return f"{shown} and topk({count}, {ranked})"


_CHANGE = f"({_quantile(0.95, _NOW)} - {_quantile(0.95, _BEFORE)})"
_IS_SLOWER = f"({_quantile(0.95, _NOW)} > {SLOWER} * {_quantile(0.95, _BEFORE)} and {_CHANGE} > {SLOWER_S})"
# The rank of a line is computed for the whole time range, so a graph shows the same lines at each point in time.
_BUSIEST = _bytes(f"{_RANGE} @ end()")
_NEEDS_CLASSES = "needs OTEL_EPPING_METRICS=core,traffic"
_TOO_FEW = f"fewer than {MIN_SAMPLES} round-trip times"


ROWS: dict[str, list[Panel]] = {
    "Verdict": [
        Panel(
            "stat",
            "Worst network",
            "The network with the greatest impact. Impact is bytes/s x (mean RTT - minimum RTT): the average number of "
            "bytes that are in flight only because RTTs are longer than the minimum RTT.",
            "bytes",
            8,
            4,
            [Query(f"topk(1, {_impact(_NOW)})", _LEGEND)],
        ),
        Panel(
            "stat",
            "Slower than before",
            f"slower: the number of networks whose p95 is now more than {SLOWER} times as long as before, and more "
            f"than {SLOWER_S * 1e3:g} ms longer. compared: the number of networks with at least {MIN_SAMPLES} RTTs now "
            "and before.",
            "short",
            5,
            4,
            [
                Query(f"count({_IS_SLOWER}) or vector(0)", "slower"),
                Query(f"count({_CHANGE}) or vector(0)", "compared"),
            ],
        ),
        Panel(
            "stat",
            "All round-trip times",
            "Quantiles of all RTTs of the selected sides and methods, and the number of these RTTs.",
            "s",
            6,
            4,
            [
                Query(f"histogram_quantile(0.5, sum(rate({_RTT}{_NOW})))", "p50"),
                Query(f"histogram_quantile(0.95, sum(rate({_RTT}{_NOW})))", "p95"),
                Query(f"histogram_count(sum(increase({_RTT}{_NOW})))", "RTTs", "short"),
            ],
        ),
        Panel(
            "stat",
            "Loss and alerts",
            "loss: retransmitted segments / TCP packets of the interfaces. alerts: the number of firing alerts of "
            "examples/prometheus/rules.yaml.",
            "percentunit",
            5,
            4,
            [
                Query(_loss_of_all(_NOW), "loss"),
                Query('count(ALERTS{alertname=~"Epping.+", alertstate="firing"}) or vector(0)', "alerts", "short"),
            ],
        ),
    ],
    "Latency": [
        Panel(
            "heatmap",
            "Distribution of round-trip times",
            "RTTs per second in each bucket. The axis is logarithmic, from 0.1 ms to 10 s. RTTs outside of these "
            "limits are not visible.",
            "s",
            12,
            9,
            [Query(f"sum(rate({_RTT}{_STEP}))", "RTTs")],
        ),
        Panel(
            "status-history",
            "p95 by network and time",
            "p95 of the 20 networks with the most traffic in the time range. A cell with fewer than "
            f"{MIN_SAMPLES} RTTs is empty.",
            "s",
            12,
            9,
            [Query(_top(20, _BUSIEST, _quantile(0.95, _STEP)), _LEGEND)],
            _TOO_FEW,
        ),
        Panel(
            "table",
            "Top 10 by change of p95",
            "p95 now is the p95 of the last $window. p95 before is the p95 of the $window that ended $baseline ago. "
            f"A network needs at least {MIN_SAMPLES} RTTs in each of the two windows. The first values appear "
            "$baseline after the first export.",
            "s",
            12,
            9,
            [
                Query(f"topk(10, {_CHANGE})", "Change"),
                Query(_top(10, _CHANGE, _quantile(0.95, _NOW)), "p95 now"),
                Query(_top(10, _CHANGE, _quantile(0.95, _BEFORE)), "p95 before"),
                Query(_top(10, _CHANGE, _samples(_NOW)), "RTTs", "short"),
            ],
            "no network has enough round-trip times now and before",
        ),
        Panel(
            "table",
            "Top 10 by impact",
            "Impact is bytes/s x (mean RTT of the last $window - minimum RTT of the time range). Networks with much "
            "traffic and long queues are at the top. The minimum RTT is the lower bound of the lowest bucket.",
            "s",
            12,
            9,
            [
                Query(f"topk(10, {_impact(_NOW)})", "Impact", "bytes"),
                Query(_top(10, _impact(_NOW), f"histogram_quantile(0.5, {_rtts(_NOW)})"), "p50"),
                Query(_top(10, _impact(_NOW), f"histogram_quantile(0.95, {_rtts(_NOW)})"), "p95"),
                Query(_top(10, _impact(_NOW), f"histogram_quantile(0, {_rtts(_RANGE)})"), "Minimum"),
                Query(_top(10, _impact(_NOW), f"8 * {_bytes(_NOW)}"), "Traffic", "bps"),
                Query(_top(10, _impact(_NOW), _samples(_NOW)), "RTTs", "short"),
            ],
        ),
    ],
    "Loss and traffic": [
        Panel(
            "timeseries",
            "Loss to and from networks",
            "Retransmitted segments / TCP packets, for the 10 networks with the most traffic. With the default "
            "metrics, packets have no class, so the retransmitted segments are divided by the packets of all "
            "protocols. Then the ratio is a lower bound of the loss. For the exact loss, set "
            "OTEL_EPPING_METRICS=core,traffic.",
            "percentunit",
            12,
            8,
            [
                Query(_top(10, _BUSIEST, _loss("to", _STEP)), f"to {_LEGEND}"),
                Query(_top(10, _BUSIEST, _loss("from", _STEP)), f"from {_LEGEND}"),
            ],
        ),
        Panel(
            "timeseries",
            "Traffic of networks",
            "Traffic from and to the 10 networks with the most traffic, in bit/s. The bytes include link headers.",
            "bps",
            12,
            8,
            [Query(_top(10, _BUSIEST, f"8 * {_bytes(_STEP)}"), _LEGEND)],
        ),
    ],
    "Coverage": [
        Panel(
            "timeseries",
            "TCP packets with timestamps",
            f"TCP packets with timestamps / TCP packets, for each side. This panel {_NEEDS_CLASSES}.",
            "percentunit",
            8,
            8,
            [
                Query(
                    _counted(
                        "epping_network_packet_count_total",
                        _SIDE,
                        'epping_traffic_class="tcp_timestamp"',
                        by="instance, network_interface_name, epping_rtt_side",
                        window=_STEP,
                    )
                    + " / ("
                    + _counted(
                        "epping_network_packet_count_total",
                        _SIDE,
                        'epping_traffic_class=~"tcp_.+"',
                        by="instance, network_interface_name, epping_rtt_side",
                        window=_STEP,
                    )
                    + " > 0)",
                    "{{epping_rtt_side}} {{network_interface_name}}",
                )
            ],
            _NEEDS_CLASSES,
        ),
        Panel(
            "timeseries",
            "RTTs per TCP packet",
            "Completed RTT samples of all methods / TCP packets of the interface. The alert EppingCoverageFell uses "
            "this ratio.",
            "percentunit",
            8,
            8,
            [Query(_samples_per_packet(_STEP), "{{network_interface_name}}")],
        ),
        Panel(
            "timeseries",
            "Outcomes of RTT samples",
            "RTT samples per second, by outcome. docs/metrics.md explains the outcomes.",
            "cps",
            8,
            8,
            [
                Query(
                    _counted(
                        "epping_agent_measurement_count_total",
                        _INTERFACE,
                        by="network_interface_name, epping_measurement_outcome",
                        window=_STEP,
                    ),
                    "{{epping_measurement_outcome}} {{network_interface_name}}",
                )
            ],
        ),
        Panel(
            "timeseries",
            "Subnets and flows that are not measured or not shown",
            "The number of subnets for which no RTT was ever measured, of TCP flows of which only one direction is "
            "seen, and of subnets without their own series because of max_series. The counts of subnets without their "
            "own series are on the overflow point, or in covering prefixes.",
            "short",
            12,
            8,
            [
                Query(f"epping_agent_subnet_unanswered{{{_AGENT}}}", "subnets that never answered"),
                Query(
                    f"sum by (network_interface_name, epping_flow_reverse) (epping_flow_unidirectional{{{_INTERFACE}}})"
                    f" or sum by (network_interface_name) (0 * epping_agent_interface_attached{{{_INTERFACE}}})",
                    "flows in one direction {{network_interface_name}} {{epping_flow_reverse}}",
                ),
                Query(f"epping_agent_series_overflowed{{{_AGENT}}}", "subnets on the overflow point"),
                Query(f"epping_agent_series_rolled_up{{{_AGENT}}}", "subnets in covering prefixes"),
            ],
        ),
        Panel(
            "timeseries",
            "Share of RTTs that are not on the overflow point",
            "100 % if every network is exported individually or in a covering prefix. If the share is lower, raise "
            "max_series, or group the networks (group_by).",
            "percentunit",
            12,
            8,
            [
                Query(
                    f"{_all_samples(_AGENT, _NOT_A_NETWORK)} / {_all_samples(_AGENT)}",
                    "{{instance}}",
                )
            ],
        ),
    ],
    "Agent health": [
        Panel(
            "timeseries",
            "Packets seen / packets of the kernel",
            "Packets that the agent sees / packets that the kernel counts. The ratio is 100 % or more if the agent "
            "sees every packet. The ratio can be above 100 %, because the kernel may count an aggregate (GSO, GRO) as "
            "one packet. The alert EppingAgentBlind uses this ratio.",
            "percentunit",
            8,
            8,
            [
                Query(
                    _counted(
                        "epping_interface_packet_count_total",
                        _INTERFACE,
                        by="instance, network_interface_name, network_io_direction",
                        window=_STEP,
                    )
                    + " / ("
                    + _counted(
                        "epping_agent_interface_packet_count",
                        _INTERFACE,
                        by="instance, network_interface_name, network_io_direction",
                        window=_STEP,
                    )
                    + " > 0)",
                    "{{network_io_direction}} {{network_interface_name}}",
                )
            ],
        ),
        Panel(
            "timeseries",
            "Attached",
            "1 if the kernel program is attached to both hooks of the interface.",
            "short",
            4,
            8,
            [Query(f"epping_agent_interface_attached{{{_INTERFACE}}}", "{{network_interface_name}} {{instance}}")],
        ),
        Panel(
            "timeseries",
            "Failed exports",
            "Export requests that failed and data points that the receiver rejected, in the last hour. The counts of a "
            "failed request are exported with the next request.",
            "short",
            6,
            8,
            [
                Query(f"increase(epping_agent_export_failed_total{{{_AGENT}}}[1h])", "failed requests {{instance}}"),
                Query(f"increase(epping_agent_export_rejected_total{{{_AGENT}}}[1h])", "rejected points {{instance}}"),
            ],
        ),
        Panel(
            "timeseries",
            "Duration of an export",
            "Duration of the latest export and of the latest reading of the kernel's maps.",
            "s",
            6,
            8,
            [
                Query(f"epping_agent_export_duration_seconds{{{_AGENT}}}", "export {{instance}}"),
                Query(f"epping_agent_read_duration_seconds{{{_AGENT}}}", "reading {{instance}}"),
            ],
        ),
        Panel(
            "timeseries",
            "Use of limits",
            "Slots of subnets, flow table entries and series in use, each divided by its limit. If the flow table is "
            "nearly full, flows are evicted. If all series are in use, the least active networks have no own series.",
            "percentunit",
            12,
            8,
            [
                Query(
                    f"epping_agent_{name}_usage{{{_AGENT}}} / epping_agent_{name}_limit{{{_AGENT}}}",
                    f"{name}s {{{{instance}}}}",
                )
                for name in ("subnet", "flow", "series")
            ],
        ),
        Panel(
            "timeseries",
            "Memory of the agent",
            "Resident memory of the exporting process.",
            "bytes",
            12,
            8,
            [Query(f"epping_agent_memory_usage_bytes{{{_AGENT}}}", "{{instance}}")],
        ),
    ],
}
