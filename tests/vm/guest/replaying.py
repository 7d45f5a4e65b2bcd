# SPDX-License-Identifier: Apache-2.0
"""Runs `otel-epping replay` on the host's captures. The events must equal the events that `replay` found on the
host."""

import subprocess

from tests.vm.guest.agent import COMMAND
from tests.vm.guest.results import SHARE, Results

ARGUMENTS = ("replay", "--events", "--format", "jsonl", "--sample-interval", "0")


def check(results: Results) -> None:
    """Replay each capture in /share/captures. Compare the events with the file NAME.events next to the capture. The
    order of the events does not matter."""
    captures = sorted((SHARE / "captures").glob("*.pcap"))
    for capture in captures:
        done = subprocess.run([*COMMAND, *ARGUMENTS, capture], capture_output=True, text=True, cwd="/tmp")
        expected = sorted(capture.with_suffix(".events").read_text().splitlines())
        found = sorted(done.stdout.splitlines())
        missing, more = len(set(expected) - set(found)), len(set(found) - set(expected))
        text = (
            f"{len(found)} events, {missing} of the host's events are missing, {more} events are not among the host's"
        )
        if done.returncode:
            text += f"; {done.stderr.strip()[-500:]}"
        results.tell(capture.stem, done.returncode == 0 and found == expected, text)
    if not captures:
        results.tell("captures", False, "the host has provided no captures")
