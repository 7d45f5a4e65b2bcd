# SPDX-License-Identifier: Apache-2.0
"""The command: `python tests/oracles COMMAND...` from anywhere, or `python -m tests.oracles` from the root."""

import sys
from pathlib import Path

import click

if not __package__:  # Python runs this folder, so sys.path contains this folder instead of the root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from otel_epping.errors import EppingError
from tests.oracles import coverage, everything, layouts, pping, tshark, wireshark
from tests.oracles.ours import Ours
from tests.oracles.report import Report

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _show(report: Report) -> None:
    """Prints a report, and exits with code 1 if it has errors."""
    click.echo(str(report))
    sys.exit(0 if report.holds else 1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Compare our RTT samples with the RTT samples of pping and tshark. Exit code 0: all samples agree; 1: some
    samples differ; 2: the comparison failed."""


@main.command("pping")
@click.argument("capture", type=FILE)
@click.argument("output", type=FILE)
def _pping(capture: Path, output: Path) -> None:
    """Compare tcp_timestamp with OUTPUT, made by `pping -r CAPTURE -m -q`, and explain each difference by a rule."""
    _show(pping.check(capture, output, Ours()))


@main.command("tshark")
@click.argument("capture", type=FILE)
@click.option("--ack-rtt", type=FILE, help="CSV: frame, time, both ends, frame acknowledged, tcp.analysis.ack_rtt.")
@click.option("--dns", type=FILE, help="CSV: frame, time, frame of the query, dns.time.")
@click.option("--icmp", type=FILE, help="CSV: frame, time, frame of the request, icmp.resptime.")
def _tshark(capture: Path, ack_rtt: Path | None, dns: Path | None, icmp: Path | None) -> None:
    """Compare tcp_sequence, tcp_handshake, dns and icmp_echo with tshark's results. Without CSV files, run tshark."""
    given = ack_rtt or dns or icmp
    found = wireshark.read(ack_rtt, dns, icmp) if given else wireshark.ask(capture)
    _show(tshark.check(capture, found, Ours()))


@main.command("coverage")
@click.argument("captures", type=FILE, nargs=-1, required=True)
def _coverage(captures: tuple[Path, ...]) -> None:
    """Show how many of the TCP flows with payload in both directions get an RTT, and why the other flows get no
    RTT."""
    _show(coverage.check(captures, Ours()))


@main.command("links")
def _links() -> None:
    """Check that tshark or tcpdump can read each generated link type and link header."""
    _show(layouts.check())


@main.command("all")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def _all(folder: Path) -> None:
    """Check each capture in FOLDER with the reference files next to the capture: NAME.pping, NAME.ack_rtt.csv,
    NAME.dns.csv..."""
    sys.exit(0 if everything.check(folder, Ours()) else 1)


if __name__ == "__main__":
    try:
        main()
    except EppingError as error:
        click.echo(f"oracles: {error}", err=True)
        sys.exit(2)
