# SPDX-License-Identifier: Apache-2.0
"""otel-epping check: is this machine fit?"""

import sys
from itertools import chain

import click

from otel_epping.cli.options import COMMAND, kernel_options, option
from otel_epping.kernel.config import KernelConfig
from otel_epping.settings.types import Interfaces


@click.command(context_settings=COMMAND)
@option("-v", "--verbose", is_flag=True, help="Also what the verifier says, of each method alone, too.")
@option("-i", "--interface", envvar="OTEL_EPPING_INTERFACE", type=Interfaces(), multiple=True,
              help="Also who else is on the hooks of this interface, in which order, and what they can hide; may be "
              "given several times.")  # fmt: skip
@kernel_options
def check(config: KernelConfig, interface: tuple[str, ...], verbose: bool) -> None:
    """Tell whether this machine has what it takes, and what the program takes of it."""
    from otel_epping.check import findings, on_interfaces

    missing = 0
    for finding in chain(findings(config, verbose), on_interfaces(interface, config) if interface else ()):
        missing += not finding.ok
        click.echo(f"{'ok     ' if finding.ok else 'MISSING'} {finding.name:14} {finding.text}")
        if finding.detail:
            click.echo(finding.detail, err=True)
    sys.exit(1 if missing else 0)
