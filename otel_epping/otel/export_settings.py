# SPDX-License-Identifier: Apache-2.0
"""The settings that decide what is exported."""

from dataclasses import dataclass, field

from otel_epping.otel.metric_selection import MetricSelection
from otel_epping.series.limits import Limits


@dataclass(frozen=True)
class ExportSettings:
    """The settings that decide what is exported.

    selection  the exported metrics and their attributes
    limits     limits on the exported series
    """

    selection: MetricSelection = field(default_factory=MetricSelection)
    limits: Limits = field(default_factory=Limits)
