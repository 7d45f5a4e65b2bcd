# SPDX-License-Identifier: Apache-2.0
"""otel-epping run: the agent."""

import logging

import click

from otel_epping.cli.options import SETTINGS, Duration, Names, kernel_options, limit_options
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.errors import EppingError
from otel_epping.kernel.interfaces import Role
from otel_epping.kernel.limits import Limits

_INTERVALS_NS = (10**6, 24 * 3600 * 10**9)


@click.command(context_settings=SETTINGS)
@click.option("-i", "--interface", "interfaces", envvar="OTEL_EPPING_INTERFACE", type=Names(), multiple=True,
              help="Interface to watch; may be given several times.")  # fmt: skip
@click.option("--lan", envvar="OTEL_EPPING_LAN", type=Names(), multiple=True,
              help="The same for one that faces the LAN: what comes in through it is the internal side.")  # fmt: skip
@click.option("--interval", type=Duration(*_INTERVALS_NS), default=None,
              help="Time between exports.  [default: OTEL_METRIC_EXPORT_INTERVAL, else 60s]")  # fmt: skip
@kernel_options
@limit_options
def run(
    config: KernelConfig, limits: Limits, interfaces: tuple[str, ...], lan: tuple[str, ...], interval: int | None
) -> None:
    """Watch interfaces, and export until SIGTERM or Ctrl-C."""
    roles = dict.fromkeys(interfaces, Role.WAN) | dict.fromkeys(lan, Role.LAN)
    if not roles:
        raise click.UsageError("Missing option '-i' / '--interface', or '--lan'.")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from otel_epping import agent  # brings the SDK and its exporters, which the other commands can do without

    if not agent.run(roles, config, interval and interval / 1e9, limits):
        raise EppingError("the last interval was not delivered: is OTEL_EXPORTER_OTLP_ENDPOINT right?")
