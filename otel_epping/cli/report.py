# SPDX-License-Identifier: Apache-2.0
"""otel-epping report: writes one page about the latency of networks."""

import math
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from otel_epping.errors import EppingError
from otel_epping.series.grouping import Grouping
from otel_epping.settings import names
from otel_epping.settings.model import Settings
from otel_epping.settings.options import COMMAND, check_choice, find_interfaces, naming_source, option, view_options
from otel_epping.settings.spec import ContradictionError
from otel_epping.settings.types import Duration

_DURATIONS_NS = (10**9, 24 * 3600 * 10**9)
_THRESHOLDS_NS = (10**3, 60 * 10**9)
_FORMATS = {".html": "html", ".htm": "html", ".md": "markdown", ".json": "json"}


class _Percentage(click.FloatRange):
    """A finite number in a range. FloatRange alone allows `nan`, because `nan` is neither too small nor too large."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Returns the number. Fails if the text is not a number, or if the number is out of range."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def _grouped(settings: Settings, group_by: str, sources: Sequence[str]) -> Settings:
    """Returns the settings with `group_by`, or the settings themselves if the sources may be recordings.

    The lines of recordings have attributes. So recordings need neither a database nor a file of names.
    """
    from otel_epping.history.sources.kinds import Kind, kind_of

    try:
        return replace(settings, group_by=group_by)
    except ContradictionError:
        if not sources or any(Path(source).is_file() and kind_of(source) is Kind.CAPTURE for source in sources):
            raise
        return settings


@click.command(context_settings=COMMAND)
@click.argument("sources", metavar="[SOURCE...]", nargs=-1)
@option("-o", "--output", metavar="FILE", required=True, help="Output file; - is standard output.")
@option("--format", type=click.Choice(("html", "markdown", "json")),
        show_default="from the name of the file, else html", help="Format of the output.")  # fmt: skip
@option("--duration", type=Duration(*_DURATIONS_NS), default="5m",
        help="Duration of a live measurement. Ctrl-C ends the measurement early, and writes the report.")  # fmt: skip
@option("--merge", is_flag=True, help="Add up the counts of two sources. By default, two sources are compared.")
@option("--fair", type=Duration(*_THRESHOLDS_NS), default="15ms",
        help="Excess (mean RTT - minimum RTT) from which a network is not good.")  # fmt: skip
@option("--slow", type=Duration(*_THRESHOLDS_NS), default="30ms",
        help="Excess (mean RTT - minimum RTT) from which a network is slow.")  # fmt: skip
@option("--loss", type=_Percentage(0, 100), default=2.0,
        help="Percentage of retransmitted TCP segments from which the loss of a network is marked.")  # fmt: skip
@option("--redact", is_flag=True, help="Show pseudonyms such as subnet-1 instead of addresses and names.")
@partial(view_options, unchecked=["group_by"])
def report(
    settings: Settings,
    group_by: str,
    sources: tuple[str, ...],
    output: str,
    format: str | None,
    duration: int,
    merge: bool,
    fair: int,
    slow: int,
    loss: float,
    redact: bool,
) -> None:
    """Write one page about the latency of networks.

    SOURCE is a capture (see otel-epping replay), a file of OTLP JSON lines (otel-epping run --record), JSON output of
    ePPing, or the URL of Prometheus' HTTP API. Without SOURCE, the command measures interfaces. With two sources, the
    page compares the first source with the second. The page opens without a network connection.
    """
    context = click.get_current_context()
    check_choice(context, settings, sources, "sources")
    if fair > slow:
        raise click.UsageError("Option '--fair' must not be greater than '--slow'.")
    if find_spec("plotly") is None:
        raise EppingError("plotly is missing: pip install 'otel-epping[report]'")
    # These imports load the OpenTelemetry SDK, which most other commands do not need.
    from otel_epping.history.verdict import Thresholds
    from otel_epping.report.run import ReportOptions, run

    with naming_source(context):
        settings = _grouped(settings, group_by, sources)
        opened = names.open_files(settings)
    if not sources:
        find_interfaces(context, settings)
    grouping = Grouping(settings.group_by, settings.network_tags, opened.databases)
    thresholds = Thresholds(fair=fair / 1e9, slow=slow / 1e9, loss=loss / 100)
    format = format or _FORMATS.get(Path(output).suffix.lower(), "html")
    options = ReportOptions(sources, output, format, duration / 1e9, thresholds, merge, redact, group_by)
    try:
        run(settings, opened, grouping, options)
    except KeyboardInterrupt:
        click.echo("otel-epping: stopped; nothing was written", err=True)
        sys.exit(128 + signal.SIGINT)
