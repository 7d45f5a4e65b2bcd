# SPDX-License-Identifier: Apache-2.0
"""Runs `otel-epping watch` on a veth interface."""

import re
import signal
import subprocess
import time
from pathlib import Path

from tests.vm.guest import traffic
from tests.vm.guest.agent import COMMAND, Rtt, judged
from tests.vm.guest.network import Pair
from tests.vm.guest.results import Results

_START_S = 180.0


def check(results: Results) -> None:
    """Compare the printed RTTs with the application's own clock."""
    pair = Pair()
    pair.veth("near0", "far0", "10.9.0")
    traffic.Server(pair.far)
    out, log = Path("/tmp/watch.out"), Path("/tmp/watch.log")
    with out.open("w") as output, log.open("w") as errors:
        command = [*COMMAND, "watch", "-i", "near0", "--sample-interval", "0"]
        process = pair.near.popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, cwd="/tmp")
    deadline = time.monotonic() + _START_S
    while "watching" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"watch does not start: {log.read_text()[-1500:]}")
        time.sleep(0.2)
    clock = traffic.talk(pair.near, [("10.9.0.2", "")])["10.9.0.2"]
    if clock.error:
        raise RuntimeError(clock.error)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    code = process.wait(60)
    lines = [line for line in out.read_text().splitlines() if "10.9.0.2:7000+" in line]
    times = [float(found[1]) for line in lines if (found := re.search(r"([\d.]+) ms", line))]
    ok, text = judged(
        Rtt(len(times), min(times)) if times else None, "tcp_timestamp", min(clock.connect_ms, clock.exchange_ms)
    )
    results.tell("watch", ok and code == 0, f"{text}, exit code {code}")
