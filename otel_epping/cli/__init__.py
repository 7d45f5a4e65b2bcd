# SPDX-License-Identifier: Apache-2.0
"""The command line, a file for each command: otel-epping run | check | config | demo | watch | replay."""

import os
import sys

import click

from otel_epping.cli.check import check
from otel_epping.cli.config import config
from otel_epping.cli.demo import demo
from otel_epping.cli.replay import replay
from otel_epping.cli.run import run
from otel_epping.cli.watch import watch
from otel_epping.kernel.errors import EppingError
from otel_epping.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="otel-epping")
def cli() -> None:
    """Passive network latency for OpenTelemetry.

    Counts round-trip times per subnet in the kernel and exports them over OTLP as exponential histograms. Each option
    can be set by a variable, --max-subnets by OTEL_EPPING_MAX_SUBNETS, or in a YAML file, --config. Where metrics go,
    the standard OTEL_* variables say: OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL, _HEADERS...
    """


for _command in (run, check, config, demo, watch, replay):
    cli.add_command(_command)


def main() -> None:
    """Runs the command line. A user's mistake ends in one line and exit code 1, or 2 if it is in the arguments."""
    try:
        try:
            cli(standalone_mode=True)
        finally:
            sys.stdout.flush()
    except EppingError as error:
        if error.detail:
            click.echo(error.detail, err=True)
        click.echo(f"otel-epping: {error}", err=True)
        sys.exit(1)
    except OSError as error:  # standard output is a full disk, or nobody reads it any more
        if not isinstance(error, BrokenPipeError):
            click.echo(f"otel-epping: {error}", err=True)
        # What could not be written stays in the buffer, and would be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
