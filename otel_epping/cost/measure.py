# SPDX-License-Identifier: Apache-2.0
"""Measures a collector: what the agent would export with the chosen settings, and with other settings."""

import ipaddress
from dataclasses import dataclass, replace

from otel_epping.cost.counting_exporter import CountingExporter
from otel_epping.cost.export import Export
from otel_epping.cost.suggestions import Suggestion, candidates, suggestions
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.otel import agent_metrics, metric_table, semconv
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.metric import Metric
from otel_epping.otel.metric_selection import ALL, MetricSelection


@dataclass(frozen=True)
class SubnetNumbers:
    """Numbers of networks. A subnet counts once for each side of each interface on which it is seen.

    answered        subnets with a round-trip time: the sum of individual, rolled_up and overflowed
    never_answered  subnets without a round-trip time, estimated by the kernel program; since the previous reading
    individual      subnets that are exported individually
    covering        covering prefixes that are exported
    rolled_up       subnets whose counts are summed in covering prefixes
    overflowed      subnets whose counts are summed on the overflow point
    """

    answered: int
    never_answered: int
    individual: int
    covering: int
    rolled_up: int
    overflowed: int


@dataclass(frozen=True)
class Measurement:
    """The result of a measurement.

    source       what was measured: names of interfaces or files
    span_s       the measured time in seconds
    packets      number of packets that were counted
    config       the configuration of the kernel program
    selection    the chosen metrics and attributes
    interval_s   time between exports, in seconds
    group_by     what a series stands for; with another value than "subnet", `networks` counts groups
    networks     the networks that were seen
    chosen       the export with the chosen settings
    complete     the export of all metrics with all attributes
    suggestions  other settings that reduce the export
    """

    source: str
    span_s: float
    packets: int
    config: EppingConfig
    selection: MetricSelection
    interval_s: float
    group_by: str
    networks: SubnetNumbers
    chosen: Export
    complete: Export
    suggestions: list[Suggestion]


class Meter:
    """Measures a collector, beginning when the Meter is created.

    The exporters read the counts one after the other. If packets arrive meanwhile, a later exporter may have a few more
    points.
    """

    def __init__(self, collector: EppingCollector, settings: ExportSettings) -> None:
        self._collector, self._settings = collector, settings
        self._chosen = CountingExporter(collector, settings)
        self._complete = CountingExporter(collector, replace(settings, selection=MetricSelection((ALL,))))
        # All exporters exist from the start. An exporter that is created later does not get the minima and maxima of
        # the RTTs, so its export is smaller.
        tried = candidates(settings, has_names=collector.config.named_networks)
        self._tried = [(each.options, CountingExporter(collector, each.settings)) for each in tried]

    def read(self) -> None:
        """Makes the exports that agents would make after an interval, and does not count them.

        The slots of idle subnets are freed only after each exporter has read their counts.
        """
        for exporter in (self._chosen, self._complete, *(exporter for _, exporter in self._tried)):
            exporter.export(is_counted=False)

    def result(self, source: str, span_s: float, interval_s: float) -> Measurement:
        """Makes the last export, and compares other settings with the chosen settings.

        `interval_s` is the time between the exports of the agent.
        """
        chosen, complete = self._chosen.export(), self._complete.export()
        tried = [(options, exporter.export()) for options, exporter in self._tried]
        return Measurement(
            source=source,
            span_s=span_s,
            packets=packets(complete),
            config=self._collector.config,
            selection=self._settings.selection,
            interval_s=interval_s,
            group_by=self._settings.grouping.group_by,
            networks=networks(complete, self._collector.config),
            chosen=chosen,
            complete=complete,
            suggestions=suggestions(chosen, tried, interval_s),
        )


def packets(complete: Export) -> int:
    """Returns the number of packets of all interfaces in an export of all metrics."""
    usage = complete.metrics.get(metric_table.INTERFACE_PACKETS.name)
    return int(sum(usage.values.values())) if usage else 0


def networks(complete: Export, config: EppingConfig) -> SubnetNumbers:
    """Returns the numbers of networks in an export of all metrics."""

    def value(metric: Metric) -> int:
        return int(next(iter(complete.metrics[metric.name].values.values())))

    covering = _covering_prefixes(complete, config)
    individual = value(agent_metrics.SERIES_USAGE) - covering
    rolled_up, overflowed = value(agent_metrics.SERIES_ROLLED_UP), value(agent_metrics.SERIES_OVERFLOWED)
    return SubnetNumbers(
        individual + rolled_up + overflowed,
        value(agent_metrics.SUBNET_UNANSWERED),
        individual,
        covering,
        rolled_up,
        overflowed,
    )


def _covering_prefixes(complete: Export, config: EppingConfig) -> int:
    """Returns the number of covering prefixes. A covering prefix is shorter than the prefixes of subnets."""
    prefixes = {4: config.prefix_v4, 6: config.prefix_v6}
    keys = (semconv.SUBNET, semconv.INTERFACE, semconv.SIDE)
    found = set()
    for metric in (metric_table.SUBNET_PACKETS, metric_table.RTT):
        usage = complete.metrics.get(metric.name)
        for series in usage.values if usage else ():
            values = dict(series)
            if semconv.SUBNET in values:
                network = ipaddress.ip_network(values[semconv.SUBNET])
                if network.prefixlen < prefixes[network.version]:
                    found.add(tuple(values[key] for key in keys))
    return len(found)
