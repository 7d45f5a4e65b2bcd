# SPDX-License-Identifier: Apache-2.0
"""Formats the result of a measurement, as text or as JSON."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from otel_epping.cost import usage
from otel_epping.cost.measure import Measurement
from otel_epping.cost.suggestions import Suggestion
from otel_epping.cost.usage import AttributeUsage, GroupUsage
from otel_epping.cost.vendor_units import VendorUnits, vendor_units
from otel_epping.series.grouping import SUBNET

_DAY_S = 86_400
_UNITS = ("B", "kB", "MB", "GB", "TB")
_STEP = 1000
_NOTHING = "-"


def report(measurement: Measurement, format: str) -> str:
    """Returns the result. `format` is `text` or `json`."""
    groups = list(usage.groups(measurement.chosen, measurement.complete))
    attributes = list(usage.attributes(measurement.selection, measurement.complete))
    units = vendor_units(measurement.chosen, measurement.interval_s, measurement.config.scale)
    if format == "json":
        return json.dumps(_as_json(measurement, groups, attributes, units), indent=2)
    parts = [
        list(_totals(measurement, units)),
        list(_groups(groups, measurement)),
        list(_attributes(attributes)),
        list(_units(units)),
        list(_suggestions(measurement)),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts)


def size(number: float) -> str:
    """Returns a number of bytes as text, for example `12.3 kB`. 1 kB is 1000 bytes."""
    place = 0
    while number >= _STEP and place < len(_UNITS) - 1:
        number /= _STEP
        place += 1
    return f"{number:,.1f} {_UNITS[place]}" if place else f"{number:,.0f} B"


def _seconds(time_s: float) -> str:
    return f"{time_s:,.3f}".rstrip("0").rstrip(".") + " s"


def _table(rows: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Yields the lines of a table. The first `left` columns are aligned on the left, all others on the right.

    Omits columns that contain only `-` below the heading.
    """
    kept = [column for column in zip(*rows, strict=True) if {*column[1:]} != {_NOTHING}]
    rows = list(zip(*kept, strict=True))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _totals(measurement: Measurement, units: VendorUnits) -> Iterator[str]:
    networks, chosen = measurement.networks, measurement.chosen
    exports = _DAY_S / measurement.interval_s
    yield f"{measurement.source}: {measurement.packets:,} packets in {_seconds(measurement.span_s)}"
    is_grouped = measurement.group_by != SUBNET
    what, groups = ("groups", f"groups by {measurement.group_by}") if is_grouped else ("networks", "networks")
    yield f"{groups}: {networks.answered:,} answered, about {networks.never_answered:,} never answered"
    yield (
        f"answered {what}: {networks.individual:,} exported individually, {networks.rolled_up:,} in "
        f"{networks.covering:,} covering prefixes, {networks.overflowed:,} on the overflow point"
    )
    if not networks.answered:
        yield "no network answered yet, so no round-trip time was measured: measure longer to see the full cost"
    yield ""
    heading = ["", "data points", "requests", "bytes", "with gzip"]
    amounts = (chosen.points, chosen.requests), (chosen.encoded_bytes, chosen.gzip_bytes)
    yield from _table(
        [
            heading,
            *(
                [name, *(f"{each * factor:,.0f}" for each in amounts[0]), *(size(each * factor) for each in amounts[1])]
                for name, factor in ((f"per export, every {_seconds(measurement.interval_s)}", 1), ("per day", exports))
            ),
        ]
    )
    yield (
        f"time series: {units.active_series:,} with native histograms, {units.classic_series:,} with classic histograms"
    )


def _groups(groups: Sequence[GroupUsage], measurement: Measurement) -> Iterator[str]:
    points = max(1, measurement.chosen.points)
    rows = [
        [
            each.group,
            f"{each.points:,}",
            f"{each.points / points:.1%}",
            size(each.bytes),
            f"{each.more_points:+,}" if each.more_points else _NOTHING,
            f"+{size(each.more_bytes)}" if each.more_points else _NOTHING,
        ]
        for each in groups
    ]
    yield "what each group of metrics adds to one export, and what --metrics all would add:"
    yield from _table([["group", "data points", "share", "bytes", "all: data points", "all: bytes"], *rows])


def _attributes(attributes: Sequence[AttributeUsage]) -> Iterator[str]:
    """Yields one line per attribute, even if the attribute is in several groups."""
    rows = []
    for name in dict.fromkeys(each.name for each in attributes):
        ours = [each for each in attributes if each.name == name]
        saved = ", ".join(f"{each.group} {each.saves:,}" for each in ours if each.saves)
        added = ", ".join(f"{each.group} {each.adds:,}" for each in ours if each.adds)
        rows.append([name, f"{sum(each.saves for each in ours):>6,}", saved or _NOTHING, added or _NOTHING])
    yield "series that each attribute adds; leave attributes out with --attributes:"
    yield from _table([["attribute", "series", "by group", "not exported, would add"], *rows], left=4)


def _units(units: VendorUnits) -> Iterator[str]:
    yield "in the units that vendors charge by (docs/cost.md):"
    yield from _table(
        [
            ["data points per minute", f"{units.points_per_minute:,.0f}"],
            ["data points per month of 30 days", f"{units.points_per_month:,.0f}"],
            ["active series", f"{units.active_series:,}"],
            ["active series with classic histograms", f"{units.classic_series:,}"],
            ["histogram buckets that are not empty", f"{units.histogram_buckets:,}"],
            ["custom metrics, 5 per histogram", f"{units.custom_metrics:,}"],
            ["custom metrics, 10 per histogram with percentiles", f"{units.custom_metrics_with_percentiles:,}"],
            ["bytes per month without compression", size(units.bytes_per_month)],
        ]
    )


def _suggestions(measurement: Measurement) -> Iterator[str]:
    if not measurement.suggestions:
        yield "no setting would reduce the cost by 5 % or more"
        return
    now = Suggestion("chosen settings", measurement.chosen, measurement.interval_s)
    rows = [["setting", "data points/minute", "", "series", "", "bytes/minute", ""]]
    for each in (now, *measurement.suggestions):
        amounts = (
            (each.points_per_minute, now.points_per_minute, f"{each.points_per_minute:,.0f}"),
            (each.export.series, now.export.series, f"{each.export.series:,}"),
            (each.bytes_per_minute, now.bytes_per_minute, size(each.bytes_per_minute)),
        )
        cells = ((text, "" if each is now else _change(amount, before)) for amount, before, text in amounts)
        rows.append([each.options, *(cell for pair in cells for cell in pair)])
    yield "settings that reduce the cost, each tried on the same counts:"
    yield from _table(rows)


def _change(amount: float, before: float) -> str:
    return f"{amount / before - 1:+.1%}" if amount != before else "same"


def _as_json(
    measurement: Measurement,
    groups: Sequence[GroupUsage],
    attributes: Sequence[AttributeUsage],
    units: VendorUnits,
) -> dict[str, Any]:
    chosen, interval_s = measurement.chosen, measurement.interval_s
    return {
        "source": measurement.source,
        "seconds": measurement.span_s,
        "packets": measurement.packets,
        "group_by": measurement.group_by,
        "networks": dataclasses.asdict(measurement.networks),
        "interval_seconds": interval_s,
        "export": {
            "data_points": chosen.points,
            "series": chosen.series,
            "requests": chosen.requests,
            "bytes": chosen.encoded_bytes,
            "gzip_bytes": chosen.gzip_bytes,
        },
        "groups": [dataclasses.asdict(each) for each in groups],
        "attributes": [dataclasses.asdict(each) for each in attributes],
        "vendor_units": dataclasses.asdict(units),
        "suggestions": [
            {
                "options": each.options,
                "interval_seconds": each.interval_s,
                "data_points": each.export.points,
                "series": each.export.series,
                "bytes": each.export.encoded_bytes,
            }
            for each in measurement.suggestions
        ],
    }
