# SPDX-License-Identifier: Apache-2.0
"""otel-epping watch: each round-trip time, line by line."""

import sys

import click

from otel_epping import watch as watching
from otel_epping.cli.options import COMMAND, kernel_options
from otel_epping.events import FORMATS
from otel_epping.kernel import follower
from otel_epping.kernel.config import KernelConfig
from otel_epping.settings.types import Interfaces


@click.command(context_settings=COMMAND)
@click.option("-i", "--interface", envvar="OTEL_EPPING_INTERFACE", type=Interfaces(), multiple=True, required=True,
              help="Interface to watch; may be given several times.")  # fmt: skip
@click.option("--format", type=click.Choice(FORMATS), default=FORMATS[0], help="As ePPing prints it.")
@kernel_options
def watch(config: KernelConfig, interface: tuple[str, ...], format: str) -> None:
    """Print each round-trip time, and each flow that opens or closes, until Ctrl-C."""
    watching.watch(follower.present(interface), config, format, sys.stdout)
