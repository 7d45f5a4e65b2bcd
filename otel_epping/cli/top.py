# SPDX-License-Identifier: Apache-2.0
"""otel-epping top: shows the networks and their RTTs in a terminal, live or from captures."""

import os
import sys

import click

from otel_epping.errors import EppingError
from otel_epping.replay.capture import STANDARD_INPUT
from otel_epping.settings import names
from otel_epping.settings.model import Settings
from otel_epping.settings.options import COMMAND, check_choice, find_interfaces, naming_source, option, view_options
from otel_epping.settings.types import Duration

_DELAYS_NS = (100_000_000, 3600 * 10**9)


@click.command(context_settings=COMMAND)
@click.argument("files", metavar="[FILE...]", nargs=-1)
@option("-b", "--batch", is_flag=True, help="Print tables instead of showing a screen. Needs no terminal.")
@option("-n", "--iterations", type=click.IntRange(1), help="With --batch: end after this number of tables.")
@option("--format", type=click.Choice(("table", "csv", "json")), default="table",
        help="With --batch: output format. json: one document per table and line.")  # fmt: skip
@option("-d", "--delay", type=Duration(*_DELAYS_NS), default="2s",
        help="Time between two readings. With --batch, each table contains the counts of this time.")  # fmt: skip
@option("--filter", "words", default="", metavar="WORDS",
        help="Show only networks that match all words, for example 'as:3320 p95>100 n>50 loss>1 side:internal "
             "method:dns name:miller'.")  # fmt: skip
@option("--sort", default="impact", metavar="COLUMN",
        help="Column by which the table is sorted. See docs/top.md for all columns.")  # fmt: skip
@option("--redact", is_flag=True, help="Show pseudonyms such as subnet-1 instead of addresses and names.")
@view_options
def top(
    settings: Settings,
    files: tuple[str, ...],
    batch: bool,
    iterations: int | None,
    format: str,
    delay: int,
    words: str,
    sort: str,
    redact: bool,
) -> None:
    """Show networks and their round-trip times, worst first.

    Watches interfaces, or reads capture files (see otel-epping replay). By default, the networks are sorted by impact:
    traffic x (mean RTT - minimum RTT of the network). Press ? for all keys. Exports nothing.
    """
    context = click.get_current_context()
    check_choice(context, settings, files, "capture files")
    if not batch and iterations is not None:
        raise click.UsageError("Option '-n' / '--iterations' needs '-b' / '--batch'.")
    if not batch and STANDARD_INPUT in files:
        raise EppingError("the screen reads keys from standard input: use --batch, or name a file")
    if not batch and not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise EppingError("standard input, output or error is not a terminal: use --batch")
    if not batch and os.environ.get("TERM") == "dumb":
        raise EppingError("the terminal cannot show a screen (TERM=dumb): use --batch, or set TERM")
    # These imports load the OpenTelemetry SDK, which most other commands do not need.
    from otel_epping.top.run import Options, run

    with naming_source(context):
        opened = names.open_files(settings)
    if not files:
        find_interfaces(context, settings)
    run(settings, opened, Options(files, batch, iterations, format, delay / 1e9, words, sort, redact))
