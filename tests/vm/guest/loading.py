# SPDX-License-Identifier: Apache-2.0
"""Compiles and loads the program with its defaults, with each method alone, and with other settings."""

import re
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from otel_epping.errors import EppingError
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from tests.vm.guest.agent import COMMAND
from tests.vm.guest.results import SHARE, Results

_LINE = re.compile(r"(ok     |MISSING) (.{14}) (.*)")  # a line of otel_epping/cli/check.py
_VERIFIED = re.compile(r"(ingress|egress) ([\d,]+)")
_SETTINGS: dict[str, dict[str, Any]] = {
    "tunnels": {"tunnels": True},
    "events": {"events": True},
    "tunnels and events": {"tunnels": True, "events": True},
    "prefixes /32 and /128": {"prefix_v4": 32, "prefix_v6": 128},
    "prefixes /0": {"prefix_v4": 0, "prefix_v6": 0},
    "scale 1": {"scale": 1},
    "every packet sampled": {"sample_interval_ns": 0},
    "packet clock": {"packet_clock": True},
    "100,000 subnets, 300,000 flows": {"max_subnets": 100_000, "max_flows": 300_000},
    "least subnets and flows": {"max_subnets": 1, "max_flows": 64},
    "ICMP alone, tunnels": {"methods": ("icmp_echo",), "tunnels": True},
    "DNS alone, tunnels": {"methods": ("dns",), "tunnels": True},
    "timestamps alone, tunnels": {"methods": ("tcp_timestamp",), "tunnels": True},
}


def default(results: Results) -> None:
    """Run `otel-epping check --verbose`. Each line of its output is a result."""
    done = subprocess.run([*COMMAND, "check", "--verbose"], capture_output=True, text=True, cwd="/tmp")
    print(done.stdout, done.stderr, flush=True)
    for line in done.stdout.splitlines():
        found = _LINE.fullmatch(line)
        if not found:
            raise ValueError(f"check printed an unknown line: {line!r}")
        state, name, text = found.groups()
        verified = {side: int(count.replace(",", "")) for side, count in _VERIFIED.findall(text)}
        seconds = re.search(r"verified, in ([\d.]+) s", text)
        data = {"verified": verified, "verifier_s": float(seconds[1])} if verified and seconds else {}
        results.tell(name.strip(), state.strip() == "ok", text, **data)
    lines = (done.stdout + done.stderr).strip().splitlines()
    results.tell("check", done.returncode == 0, f"exit code {done.returncode}; {lines[-1] if lines else 'no output'}")
    _from_9p(results)


def _from_9p(results: Results) -> None:
    """Load the program from 9p, a file system on which Landlock does not work. The agent must print a warning."""
    check = [sys.executable, "-m", "otel_epping", "check", "--max-subnets", "64"]
    done = subprocess.run(check, capture_output=True, text=True, cwd=Path(SHARE, "product"))
    warned = "Landlock could not be applied" in done.stderr
    results.tell("from 9p", done.returncode == 0 and warned, f"exit code {done.returncode}; {done.stderr.strip()}")


def settings(results: Results) -> None:
    """Load the program with each of _SETTINGS."""
    for name, changes in _SETTINGS.items():
        _load(results, name, replace(EppingConfig(), **changes))


def _load(results: Results, name: str, config: EppingConfig) -> None:
    began = time.monotonic()
    try:
        with EppingCollector(config) as collector:
            counts = collector.verified_instructions or {}  # Linux before 5.16 does not report verified instructions
            results.tell(name, True, f"{_listed(counts.items())} instructions; {time.monotonic() - began:.1f} s")
    except EppingError as error:
        detail = (error.detail or "").strip().splitlines()[-5:]
        results.tell(name, False, " | ".join([str(error), *detail]))


def _listed(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name.removeprefix('epping_')} {count:,}" for name, count in counts)
