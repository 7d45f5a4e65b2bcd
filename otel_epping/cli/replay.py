# SPDX-License-Identifier: Apache-2.0
"""otel-epping replay: look at captures."""

import signal
import sys

import click

from otel_epping.events.formats import FORMATS
from otel_epping.kernel.config import EppingConfig
from otel_epping.settings.options import COMMAND, capture_options, option


@click.command(context_settings=COMMAND)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@option("--events", is_flag=True, help="Print each round-trip time and flow event instead.")
@option("--format", type=click.Choice(FORMATS), default=FORMATS[0], help="Of events, as ePPing has it.")
@option("--otlp", is_flag=True, help="Export the result, too, as the OTEL_* variables say.")
@capture_options
def replay(config: EppingConfig, files: tuple[str, ...], events: bool, format: str, otlp: bool) -> None:
    """Measure in captures: pcap or pcapng, plain or compressed by gzip, bzip2, xz, zstd or lz4; - is standard input.

    The kernel program sees the packets as it would have seen them, at their time. Prints what it counted per subnet.
    """
    from otel_epping.replay.run import run  # brings the SDK, which not all commands need

    if not run(files, config, format if events else None, otlp):
        sys.exit(128 + signal.SIGINT)
