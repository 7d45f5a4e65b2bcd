# SPDX-License-Identifier: Apache-2.0
"""Tests the time and the memory of a report about one month of 1,000 networks."""

import subprocess
import sys

from tests.test_project import ROOT

MAX_S, MAX_BYTES, MAX_PAGE_BYTES = 30, 10**9, 15_000_000
# The child process prints the time to make the report in seconds, its maximum memory, and the size of the page.
CODE = """
import resource, time
from otel_epping.history.verdict import Thresholds
from otel_epping.networks.pseudonyms import unchanged
from otel_epping.replay.progress import progress_bar
from otel_epping.report.build import build
from otel_epping.report.html import html
from otel_epping.report.measurement import Source
from tests.support.provider import provider

history = provider()
began_s = time.monotonic()
page = html(build([Source("provider", history)], Thresholds(), unchanged, progress_bar))
print(time.monotonic() - began_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, len(page))
"""


def test_one_month_of_a_thousand_networks() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, memory, size = map(float, done.stdout.split())
    print(f"{seconds:.1f} s, {memory / 1e6:.0f} MB, page {size / 1e6:.1f} MB")
    assert seconds < MAX_S
    assert memory < MAX_BYTES
    assert size < MAX_PAGE_BYTES
