# SPDX-License-Identifier: Apache-2.0
"""otel-epping watch: each round-trip time, line by line."""

import sys

import click

from otel_epping import watch as watching
from otel_epping.cli.options import COMMAND, kernel_options, naming_source, option
from otel_epping.events.formats import FORMATS
from otel_epping.kernel.attach import interface_monitor, interfaces
from otel_epping.kernel.attach.interfaces import Role
from otel_epping.kernel.config import KernelConfig
from otel_epping.settings.types import Interfaces


@click.command(context_settings=COMMAND)
@option("-i", "--interface", envvar="OTEL_EPPING_INTERFACE", type=Interfaces(), multiple=True,
              help="Interface to watch; may be given several times.")  # fmt: skip
@option("--mirror", envvar="OTEL_EPPING_MIRROR", type=Interfaces(), multiple=True,
              help="The same for a mirror, SPAN or TAP port, where both directions arrive the same way.")  # fmt: skip
@option("--format", type=click.Choice(FORMATS), default=FORMATS[0], help="As ePPing prints it.")
@kernel_options
def watch(config: KernelConfig, interface: tuple[str, ...], mirror: tuple[str, ...], format: str) -> None:
    """Print each round-trip time, and each flow that opens or closes, until Ctrl-C."""
    roles = {}
    for name, role, texts in (("interface", Role.WAN, interface), ("mirror", Role.MIRROR, mirror)):
        if not texts:
            continue
        with naming_source(click.get_current_context(), [name]):
            found = interface_monitor.present(texts)
            for each in found:
                interfaces.find(each)
        roles.update(dict.fromkeys(found, role))
    if not roles:
        raise click.UsageError("Missing option '-i' / '--interface', or '--mirror'.")
    watching.watch(roles, config, format, sys.stdout)
