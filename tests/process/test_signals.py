# SPDX-License-Identifier: Apache-2.0
"""Tests the deadline after the first signal. The deadline ends a process that hangs, but not a process that is already
exiting."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

PROGRAM = """
import os, signal, sys, time
from otel_epping.process.signals import Stop
stop = Stop("stopped", 0.2)
stop.at_deadline = "at the deadline", 3
os.kill(os.getpid(), signal.SIGTERM)
{}
"""
HANGS = "while True: time.sleep(1)"
# The interpreter resets the signal handlers before it deletes modules and the objects of modules.
ENDS_SLOWLY = """
class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(0.5)
sys.slow = Slow()
sys.exit(5)
"""


@pytest.mark.parametrize(
    ("end", "status", "message"), [(HANGS, 3, "otel-epping: at the deadline\n"), (ENDS_SLOWLY, 5, "")]
)
def test_the_deadline_sets_the_exit_code_only_if_the_process_hangs(end: str, status: int, message: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(end)], capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stderr) == (status, message)
