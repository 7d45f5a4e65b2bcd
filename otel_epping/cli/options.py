# SPDX-License-Identifier: Apache-2.0
"""What several commands have in common: types of arguments, and the options that are knobs of the kernel program."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from otel_epping.kernel import methods
from otel_epping.kernel.config import LIMITS, KernelConfig
from otel_epping.kernel.errors import EppingError
from otel_epping.kernel.limits import Limits

_UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "": 10**9}
_DEFAULTS = KernelConfig()

# Of each command.
SETTINGS: dict[str, Any] = {"auto_envvar_prefix": "OTEL_EPPING", "show_default": True, "max_content_width": 110}


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


def kernel_options(command: Callable[..., Any]) -> Callable[..., Any]:
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
        click.option("--tunnels", is_flag=True,
                     help="Measure what is inside of GRE, VXLAN and IP-in-IP, and not the tunnel itself."),
        click.option("--scale", type=click.IntRange(0, 6), default=_DEFAULTS.scale,
                     help="Scale of the histograms: 2^scale buckets per doubling. 4 is an error of 2.2 %."),
        click.option("--max-subnets", type=click.IntRange(*LIMITS["max_subnets"]), default=_DEFAULTS.max_subnets,
                     help="Subnets counted apart; what is beyond them is counted together."),
        click.option("--max-flows", type=click.IntRange(*LIMITS["max_flows"]), default=_DEFAULTS.max_flows,
                     help="TCP flows remembered at a time."),
    )  # fmt: skip

    @wraps(command)
    def configured(**arguments: Any) -> Any:
        knobs = {name: arguments.pop(name) for name in ("prefix_v4", "prefix_v6", "scale", "max_subnets", "max_flows")}
        knobs["methods"] = arguments.pop("methods")
        knobs["tunnels"] = arguments.pop("tunnels")
        knobs["sample_interval_ns"] = arguments.pop("sample_interval")
        knobs["max_age_ns"] = arguments.pop("max_age")
        return command(config=KernelConfig(**knobs), **arguments)

    decorated: Callable[..., Any] = configured
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that bound what is exported; they arrive as one Limits."""
    options = (
        click.option("--idle-timeout", type=Duration(0, 366 * 24 * 3600 * 10**9), default="0",
                     help="A subnet of which nothing was seen for so long makes room for others, its last counts are "
                          "exported still; 0 for never."),
        click.option("--max-series", type=click.IntRange(min=1), default=None,
                     help="Subnets exported apart, the busiest; all others together, on the overflow point.  "
                          "[default: as many as --max-subnets]"),
        click.option("--roll-up", is_flag=True,
                     help="With --max-series: all others in prefixes that cover them (/16, /8, /0; IPv6 /32, /16, /0) "
                          "rather than on the overflow point."),
        click.option("--min-samples", type=click.IntRange(min=0), default=0,
                     help="Round-trip times that a subnet must have to be exported apart. Until then it is with all "
                          "others; what was counted there stays there."),
    )  # fmt: skip

    @wraps(command)
    def limited(**arguments: Any) -> Any:
        limits = Limits(
            idle_timeout_ns=arguments.pop("idle_timeout"),
            max_series=arguments.pop("max_series"),
            min_samples=arguments.pop("min_samples"),
            roll_up=arguments.pop("roll_up"),
        )
        return command(limits=limits, **arguments)

    decorated: Callable[..., Any] = limited
    for option in reversed(options):
        decorated = option(decorated)
    return decorated
