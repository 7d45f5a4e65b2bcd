# SPDX-License-Identifier: Apache-2.0
"""otel-epping replay: measures RTTs in capture files."""

import signal
import sys

import click

from otel_epping.events.formats import FORMATS
from otel_epping.networks.pseudonyms import Pseudonyms, unchanged
from otel_epping.settings import names
from otel_epping.settings.model import Settings
from otel_epping.settings.options import COMMAND, capture_options, naming_source, option


@click.command(context_settings=COMMAND)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@option("--events", is_flag=True, help="Print each RTT and each flow event instead of the table.")
@option("--format", type=click.Choice(FORMATS), default=FORMATS[0], help="Format of the events, as in ePPing.")
@option("--otlp", is_flag=True, help="Also export the result. The OTEL_* variables set the destination.")
@option("--redact", is_flag=True, help="Print pseudonyms such as subnet-1 and host-1 instead of addresses and names.")
@capture_options
def replay(settings: Settings, files: tuple[str, ...], events: bool, format: str, otlp: bool, redact: bool) -> None:
    """Measure RTTs in capture files.

    Runs the kernel program on the packets, and prints a table of subnets and named networks. The program uses the
    timestamps of the packets as its clock. The format of a file is pcap or pcapng. A file may be compressed by gzip,
    bzip2, xz, zstd or lz4. If FILE is -, standard input is read.
    """
    if redact and otlp:
        raise click.UsageError("Choose either --redact or --otlp: exported data contains addresses and names.")
    # These imports load the OpenTelemetry SDK, which most other commands do not need.
    from otel_epping.replay.run import run

    with naming_source(click.get_current_context()):
        opened = names.open_files(settings)
    export = settings.export(opened.databases)
    how, show = format if events else None, Pseudonyms() if redact else unchanged
    if not run(files, settings.kernel, how, export if otlp else None, export.grouping, opened.networks, show):
        sys.exit(128 + signal.SIGINT)
