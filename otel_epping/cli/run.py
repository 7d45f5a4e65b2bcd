# SPDX-License-Identifier: Apache-2.0
"""otel-epping run: the agent."""

import click

from otel_epping import logs
from otel_epping.cli.options import SETTINGS, Duration, Names, kernel_options
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.errors import EppingError
from otel_epping.kernel.interfaces import Role

_INTERVALS_NS = (10**6, 24 * 3600 * 10**9)


@click.command(context_settings=SETTINGS)
@click.option("-i", "--interface", "interfaces", envvar="OTEL_EPPING_INTERFACE", type=Names(), multiple=True,
              help="Interface to watch; may be given several times.")  # fmt: skip
@click.option("--lan", envvar="OTEL_EPPING_LAN", type=Names(), multiple=True,
              help="The same for one that faces the LAN: what comes in through it is the internal side.")  # fmt: skip
@click.option("--interval", type=Duration(*_INTERVALS_NS), default=None,
              help="Time between exports.  [default: OTEL_METRIC_EXPORT_INTERVAL, else 60s]")  # fmt: skip
@click.option("--health-port", type=click.IntRange(1, 65535), default=None,
              help="Port for health probes over HTTP: /livez and /readyz.  [default: none]")  # fmt: skip
@click.option("--health-address", default="127.0.0.1",
              help="Address for health probes: 0.0.0.0 or :: where a kubelet asks at the pod's address.")  # fmt: skip
@click.option("--log-format", type=click.Choice(logs.FORMATS), default="text",
              help="Lines of the log, on standard error: text, or JSON objects.")  # fmt: skip
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", help="Least level that is logged.")
@kernel_options
def run(
    config: KernelConfig,
    interfaces: tuple[str, ...],
    lan: tuple[str, ...],
    interval: int | None,
    health_port: int | None,
    health_address: str,
    log_format: str,
    log_level: str,
) -> None:
    """Watch interfaces, and export until SIGTERM or Ctrl-C."""
    roles = dict.fromkeys(interfaces, Role.WAN) | dict.fromkeys(lan, Role.LAN)
    if not roles:
        raise click.UsageError("Missing option '-i' / '--interface', or '--lan'.")
    logs.configure(log_format, log_level)
    from otel_epping import agent  # brings the SDK and its exporters, which the other commands can do without

    health_at = (health_address, health_port) if health_port else None
    if not agent.run(roles, config, interval and interval / 1e9, health_at):
        raise EppingError("the last interval was not delivered: is OTEL_EXPORTER_OTLP_ENDPOINT right?")
