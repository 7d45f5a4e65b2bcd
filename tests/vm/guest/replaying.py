# SPDX-License-Identifier: Apache-2.0
"""`otel-epping replay` of the host's captures: the events must be those that the host found."""

import subprocess

from tests.vm.guest.agent import COMMAND
from tests.vm.guest.results import SHARE, Results

ARGUMENTS = ("replay", "--events", "--format", "jsonl", "--sample-interval", "0")


def check(results: Results) -> None:
    """Replay each capture in /share/captures and compare with NAME.events beside it, whatever the order."""
    captures = sorted((SHARE / "captures").glob("*.pcap"))
    for capture in captures:
        done = subprocess.run([*COMMAND, *ARGUMENTS, capture], capture_output=True, text=True, cwd="/tmp")
        expected = sorted(capture.with_suffix(".events").read_text().splitlines())
        found = sorted(done.stdout.splitlines())
        missing, more = len(set(expected) - set(found)), len(set(found) - set(expected))
        text = f"{len(found)} events, {missing} of the host's missing, {more} that the host does not have"
        if done.returncode:
            text += f"; {done.stderr.strip()[-500:]}"
        results.tell(capture.stem, done.returncode == 0 and found == expected, text)
    if not captures:
        results.tell("captures", False, "the host gave no captures")
