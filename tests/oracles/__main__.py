# SPDX-License-Identifier: Apache-2.0
"""The command: `python tests/oracles COMMAND...` from anywhere, or `python -m tests.oracles` from the root."""

import sys
from pathlib import Path

import click

if not __package__:  # the folder itself was run: what is on sys.path is that folder, not the root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from otel_epping.errors import EppingError
from tests.oracles import coverage, everything, layouts, pping, tshark, wireshark
from tests.oracles.ours import Ours
from tests.oracles.report import Report

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _show(report: Report) -> None:
    """Prints a report, and ends with exit code 1 if it does not hold."""
    click.echo(str(report))
    sys.exit(0 if report.holds else 1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Hold our samples against pping and tshark. Exit code 0: all of them hold; 1: some don't; 2: can't tell."""


@main.command("pping")
@click.argument("capture", type=FILE)
@click.argument("output", type=FILE)
def _pping(capture: Path, output: Path) -> None:
    """tcp_timestamp against OUTPUT, made by `pping -r CAPTURE -m -q`; tells by rule what each side has alone."""
    _show(pping.check(capture, output, Ours()))


@main.command("tshark")
@click.argument("capture", type=FILE)
@click.option("--ack-rtt", type=FILE, help="CSV: frame, time, both ends, frame acknowledged, tcp.analysis.ack_rtt.")
@click.option("--dns", type=FILE, help="CSV: frame, time, frame of the query, dns.time.")
@click.option("--icmp", type=FILE, help="CSV: frame, time, frame of the request, icmp.resptime.")
def _tshark(capture: Path, ack_rtt: Path | None, dns: Path | None, icmp: Path | None) -> None:
    """tcp_sequence, tcp_handshake, dns and icmp_echo against these files; with none, against tshark itself."""
    given = ack_rtt or dns or icmp
    found = wireshark.read(ack_rtt, dns, icmp) if given else wireshark.ask(capture)
    _show(tshark.check(capture, found, Ours()))


@main.command("coverage")
@click.argument("captures", type=FILE, nargs=-1, required=True)
def _coverage(captures: tuple[Path, ...]) -> None:
    """Share of the TCP flows with payload in both directions that get an RTT, and why the others get none."""
    _show(coverage.check(captures, Ours()))


@main.command("links")
def _links() -> None:
    """Whether tshark or tcpdump read each made link type and link header."""
    _show(layouts.check())


@main.command("all")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def _all(folder: Path) -> None:
    """Every capture in FOLDER with whatever references lie beside it: NAME.pping, NAME.ack_rtt.csv, NAME.dns.csv..."""
    sys.exit(0 if everything.check(folder, Ours()) else 1)


if __name__ == "__main__":
    try:
        main()
    except EppingError as error:
        click.echo(f"oracles: {error}", err=True)
        sys.exit(2)
