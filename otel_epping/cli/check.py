# SPDX-License-Identifier: Apache-2.0
"""otel-epping check: is this machine fit?"""

import sys

import click

from otel_epping.cli.options import COMMAND, kernel_options
from otel_epping.kernel.config import KernelConfig


@click.command(context_settings=COMMAND)
@click.option("-v", "--verbose", is_flag=True, help="Also what the verifier says, of each method alone, too.")
@kernel_options
def check(config: KernelConfig, verbose: bool) -> None:
    """Tell whether this machine has what it takes, and what the program takes of it."""
    from otel_epping.check import findings

    missing = 0
    for finding in findings(config, verbose):
        missing += not finding.ok
        click.echo(f"{'ok     ' if finding.ok else 'MISSING'} {finding.name:14} {finding.text}")
        if finding.detail:
            click.echo(finding.detail, err=True)
    sys.exit(1 if missing else 0)
