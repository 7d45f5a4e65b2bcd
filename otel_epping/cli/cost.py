# SPDX-License-Identifier: Apache-2.0
"""otel-epping cost: measures what an agent would export, and which settings would reduce the export."""

import click

from otel_epping.otel.variables import standard
from otel_epping.settings import names
from otel_epping.settings.model import Settings
from otel_epping.settings.options import COMMAND, check_choice, export_options, find_interfaces, naming_source, option
from otel_epping.settings.types import Duration

_DURATIONS_NS = (10**9, 24 * 3600 * 10**9)


@click.command(context_settings=COMMAND)
@click.argument("files", metavar="[FILE...]", nargs=-1)
@option("--duration", type=Duration(*_DURATIONS_NS), default="60s",
        help="Time to measure. Ctrl-C ends the measurement early.")  # fmt: skip
@option("--format", type=click.Choice(("text", "json")), default="text", help="Format of the result.")
@export_options
def cost(settings: Settings, files: tuple[str, ...], duration: int, format: str) -> None:
    """Measure what an agent would export: data points, series, bytes.

    Measures interfaces for a while, or the packets of capture files (see otel-epping replay). Prints what each group of
    metrics and each attribute adds, the units that vendors charge by, and the settings that would reduce the cost.
    Sends nothing.
    """
    context = click.get_current_context()
    check_choice(context, settings, files, "capture files")
    variables = standard.read()
    variables.apply()  # before the import of the SDK
    interval_s = settings.interval_ns / 1e9 if settings.interval_ns else variables.interval_s
    from otel_epping.cost import run
    from otel_epping.cost.report import report
    from otel_epping.replay.run import last_error

    with naming_source(context):
        opened = names.open_files(settings)
    export = settings.export(opened.databases)
    failures: list[str] = []
    if files:
        result, failures = run.measure_captures(files, settings.kernel, opened.networks, export, interval_s)
    else:
        find_interfaces(context, settings)
        result = run.measure_interfaces(settings, opened.networks, export, duration / 1e9, interval_s)
    click.echo(report(result, format))
    if failures:
        raise last_error(failures)
