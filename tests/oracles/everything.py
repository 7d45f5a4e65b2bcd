# SPDX-License-Identifier: Apache-2.0
"""Compares every capture of a folder with the reference files in the same folder, and prints a table of results."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from otel_epping.errors import EppingError
from tests.oracles import coverage, pping, tshark, wireshark
from tests.oracles.ours import Ours
from tests.oracles.report import Report

SUFFIXES = (".pcap", ".pcapng", ".cap", ".pcap.gz", ".pcapng.gz")


def check(folder: Path, ours: Ours) -> bool:
    """Checks all captures and prints the results. Returns true if no check has an error."""
    captures = [path for path in sorted(folder.iterdir()) if path.name.endswith(SUFFIXES)]
    if not captures:
        raise EppingError(f"{folder} contains no capture ({', '.join(SUFFIXES)})")
    rows: list[tuple[str, str]] = []
    reports: list[Report] = []

    def run(name: str, checked: Callable[[], Report]) -> None:
        try:
            report = checked()
        except EppingError as error:
            report = Report(name, errors=[str(error)])
        reports.append(report)
        rows.append((report.title, "holds" if report.holds else f"{len(report.errors)} UNEXPLAINED"))
        print(report)

    for capture in captures:
        stem = capture.name.removesuffix(".gz").rpartition(".")[0]
        references = {
            kind: path for kind in ("ack_rtt", "dns", "icmp") if (path := folder / f"{stem}.{kind}.csv").is_file()
        }
        if (output := folder / f"{stem}.pping").is_file():
            run(f"{capture.name} against pping", partial(pping.check, capture, output, ours))
        if references:
            run(f"{capture.name} against tshark", partial(tshark.check, capture, wireshark.read(**references), ours))
    run("coverage", lambda: coverage.check(captures, ours))
    width = max(len(title) for title, _ in rows)
    print("\n".join(f"{title:{width}}  {outcome}" for title, outcome in rows))
    return all(report.holds for report in reports)
