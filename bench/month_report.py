# SPDX-License-Identifier: Apache-2.0
"""Measures `otel-epping report` with a recording of one month of 1,000 networks, and the time to open the page.

The invented provider (tests/support/provider.py) is written in the format of `otel-epping run --record`, with
one export per hour. The recording has 3.9 GB of OTLP/JSON, so the folder for temporary files needs 3.9 GB of free
space. The report runs in a separate process. The browser is headless Chromium. If Chromium is not installed, only the
report is measured. The time to open the page is the shortest time of three measurements. Each measurement starts a new
browser.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.programs import Contender
from bench.report import Heading, Result, Table, progress
from otel_epping.errors import EppingError
from tests.support.browser import CHROMIUM, Browser
from tests.support.provider import provider
from tests.support.recordings import write_recording

_NETWORKS, _HOURS = 1000, 30 * 24
_TINY = 20, 48
_WIDTHS = {"desktop": 1440, "phone": 390}
_OPENINGS = 3


def _report(recording: Path, page: Path) -> dict[str, float]:
    """Writes the report. Returns the wall time and CPU time in s, the peak memory in MB, and the page size in MB."""
    began_s = time.monotonic()
    command = [sys.executable, "-m", "otel_epping", "report", str(recording), "-o", str(page)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise EppingError(f"otel-epping report failed with status {process.returncode}")
    return {
        "wall_s": time.monotonic() - began_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * 1024 / 1e6,
        "page_mb": page.stat().st_size / 1e6,
    }


def _opening_s(page: Path, width: int) -> float:
    times = []
    for _ in range(_OPENINGS):
        with Browser(width) as browser:
            times.append(browser.open(page))
    return min(times)


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures one month. Other programs are not measured."""
    networks, hours = _TINY if tiny else (_NETWORKS, _HOURS)
    with tempfile.TemporaryDirectory() as folder:
        recording, page = Path(folder) / "month.jsonl", Path(folder) / "page.html"
        progress(f"month_report: writing {hours:,} exports of {networks:,} networks")
        write_recording(recording, provider(networks, hours))
        size_mb = recording.stat().st_size / 1e6
        progress(f"month_report: report about {size_mb:,.0f} MB")
        found = _report(recording, page)
        opening = {name: _opening_s(page, width) for name, width in _WIDTHS.items()} if CHROMIUM and not tiny else {}
    columns = [Heading("networks", ",d"), Heading("recording, MB", ",.0f"), Heading("wall s", ".1f")]
    columns += [Heading("CPU s", ".1f"), Heading("peak MB", ".0f"), Heading("page MB", ".1f")]
    columns += [Heading(f"opens, {name}, s", ".2f") for name in opening]
    table = Table("Report about one month", columns)
    table.add(networks, size_mb, *found.values(), *opening.values())
    figures = {f"month_report.{name}": value for name, value in found.items()}
    if opening:
        figures["month_report.opening_s"] = max(opening.values())
    return Result([table], figures)
