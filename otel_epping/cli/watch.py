# SPDX-License-Identifier: Apache-2.0
"""otel-epping watch: each round-trip time, line by line."""

import sys

import click

from otel_epping import watch as watching
from otel_epping.cli.options import COMMAND, kernel_options
from otel_epping.events import FORMATS
from otel_epping.kernel import follower
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.interfaces import Role
from otel_epping.settings.types import Interfaces


@click.command(context_settings=COMMAND)
@click.option("-i", "--interface", envvar="OTEL_EPPING_INTERFACE", type=Interfaces(), multiple=True,
              help="Interface to watch; may be given several times.")  # fmt: skip
@click.option("--mirror", envvar="OTEL_EPPING_MIRROR", type=Interfaces(), multiple=True,
              help="The same for a mirror, SPAN or TAP port, where both directions arrive the same way.")  # fmt: skip
@click.option("--format", type=click.Choice(FORMATS), default=FORMATS[0], help="As ePPing prints it.")
@kernel_options
def watch(config: KernelConfig, interface: tuple[str, ...], mirror: tuple[str, ...], format: str) -> None:
    """Print each round-trip time, and each flow that opens or closes, until Ctrl-C."""
    roles = {}
    for role, texts in ((Role.WAN, interface), (Role.MIRROR, mirror)):
        if texts:
            roles.update(dict.fromkeys(follower.present(texts), role))
    if not roles:
        raise click.UsageError("Missing option '-i' / '--interface', or '--mirror'.")
    watching.watch(roles, config, format, sys.stdout)
