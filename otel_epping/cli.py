# SPDX-License-Identifier: Apache-2.0
"""The command line: otel-epping run | check | demo."""

import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import click

from otel_epping.kernel import methods, requirements
from otel_epping.kernel.config import LIMITS, KernelConfig
from otel_epping.kernel.errors import EppingError
from otel_epping.version import __version__

_UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "": 10**9}
_ENVIRONMENT = "OTEL_EPPING"
_DEFAULTS = KernelConfig()
_INTERVALS_NS = (10**6, 24 * 60 * _UNITS_NS["m"])


class Duration(click.ParamType[int]):
    """A time such as 100ms, 2.5s or 1m; a bare number is seconds. Converts to whole ns, within limits."""

    name = "duration"

    def __init__(self, least_ns: int, greatest_ns: int) -> None:
        self._least_ns, self._greatest_ns = least_ns, greatest_ns

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Whole ns; a value that is none fails with what is allowed."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|)", value.strip(), re.ASCII)
        if not match:
            self.fail(f"{value!r} is not a time such as 100ms, 2.5s or 1m", param, ctx)
        time_ns = round(float(match[1]) * _UNITS_NS[match[2]])
        if not self._least_ns <= time_ns <= self._greatest_ns:
            self.fail(f"{value} is not from {self._least_ns / 1e9:g}s to {self._greatest_ns / 1e9:g}s", param, ctx)
        return time_ns


class Names(click.ParamType[str]):
    """A name; several in an environment variable are separated by commas."""

    name = "name"
    envvar_list_splitter = ","

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name without white space around it."""
        return str(value).strip()


class Methods(click.ParamType[tuple[str, ...]]):
    """Names of methods, separated by commas."""

    name = "name,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The names; one that is none fails with those there are."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in value.split(",") if name.strip())
        try:
            methods.bits(names)
        except EppingError as error:
            self.fail(str(error), param, ctx)
        return names


def _kernel_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that are knobs of the kernel program; they arrive as one KernelConfig."""
    options = (
        click.option("--prefix-v4", type=click.IntRange(0, 32), default=_DEFAULTS.prefix_v4,
                     help="Length of the IPv4 prefixes that are subnets."),
        click.option("--prefix-v6", type=click.IntRange(0, 128), default=_DEFAULTS.prefix_v6,
                     help="Length of the IPv6 prefixes that are subnets."),
        click.option("--sample-interval", type=Duration(*LIMITS["sample_interval_ns"]), default="100ms",
                     help="Least time between two round-trip times begun in one flow and direction; 0 for all."),
        click.option("--max-age", type=Duration(*LIMITS["max_age_ns"]), default="10s",
                     help="Greatest round-trip time: what waits longer for its reply is given up."),
        click.option("--methods", type=Methods(), default=",".join(methods.ALL),
                     help="Ways to measure, separated by commas."),
        click.option("--scale", type=click.IntRange(0, 6), default=_DEFAULTS.scale,
                     help="Scale of the histograms: 2^scale buckets per doubling. 4 is an error of 2.2 %."),
        click.option("--max-subnets", type=click.IntRange(*LIMITS["max_subnets"]), default=_DEFAULTS.max_subnets,
                     help="Subnets counted apart; what is beyond them is counted together."),
        click.option("--max-flows", type=click.IntRange(*LIMITS["max_flows"]), default=_DEFAULTS.max_flows,
                     help="TCP flows remembered at a time."),
    )  # fmt: skip

    def configured(**arguments: Any) -> Any:
        knobs = {name: arguments.pop(name) for name in ("prefix_v4", "prefix_v6", "scale", "max_subnets", "max_flows")}
        knobs["methods"] = arguments.pop("methods")
        knobs["sample_interval_ns"] = arguments.pop("sample_interval")
        knobs["max_age_ns"] = arguments.pop("max_age")
        return command(config=KernelConfig(**knobs), **arguments)

    configured.__doc__ = command.__doc__
    configured.__name__ = command.__name__
    decorated: Callable[..., Any] = configured
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


_COMMAND = {"context_settings": {"auto_envvar_prefix": _ENVIRONMENT, "show_default": True, "max_content_width": 110}}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="otel-epping")
def cli() -> None:
    """Passive network latency for OpenTelemetry.

    Counts round-trip times per subnet in the kernel and exports them over OTLP as exponential histograms. Each option
    can be set by a variable: --max-subnets by OTEL_EPPING_MAX_SUBNETS. Where metrics go, the standard OTEL_* variables
    say: OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL, _HEADERS...
    """


@cli.command(**_COMMAND)
@click.option("-i", "--interface", "interfaces", envvar="OTEL_EPPING_INTERFACE", type=Names(), multiple=True,
              required=True, help="Interface to watch; may be given several times.")  # fmt: skip
@click.option("--interval", type=Duration(*_INTERVALS_NS), default=None,
              help="Time between exports.  [default: OTEL_METRIC_EXPORT_INTERVAL, else 60s]")  # fmt: skip
@_kernel_options
def run(config: KernelConfig, interfaces: tuple[str, ...], interval: int | None) -> None:
    """Watch interfaces, and export until SIGTERM or Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from otel_epping import agent  # brings the SDK and its exporters, which the other commands can do without

    if not agent.run(interfaces, config, interval and interval / 1e9):
        raise EppingError("the last interval was not delivered: is OTEL_EXPORTER_OTLP_ENDPOINT right?")


@cli.command(**_COMMAND)
@click.option("-v", "--verbose", is_flag=True, help="Also what the verifier says, of each method alone, too.")
@_kernel_options
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


@cli.command(**_COMMAND)
def demo() -> None:
    """See it work: a small internet with known delays, a real collector, and what it received. Takes half a minute."""
    requirements.kernel()
    requirements.privileges()
    from otel_epping import demo as demonstration  # needs rich and rotel

    if not demonstration.run():
        raise EppingError("not all round-trip times are the true ones: is the machine overloaded? Run it again")


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
