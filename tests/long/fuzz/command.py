# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m tests.long.fuzz --packets 2000000 --seed 1`, as root.

The packets are divided among the configurations, and the configurations are divided among the CPUs. Each process loads
its own kernel program. The same seed generates the same packets. If the program and the model disagree, the
configuration receives no more packets. The command then searches for the few packets that cause the disagreement, and
prints these packets as Python. `--only CONFIG:NUMBER` runs only the episode with this number. The exit status is 0 if
the program and the model agree.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from otel_epping.kernel import methods
from otel_epping.kernel.config import EppingConfig
from tests.long.fuzz import episodes, talks
from tests.long.fuzz.meaning import read
from tests.long.fuzz.rules import Step
from tests.long.fuzz.trial import Trial, shrink

MS, SECOND = 1_000_000, 1_000_000_000
_COMMON: dict[str, Any] = {"packet_clock": True, "max_flows": 8192, "max_subnets": 512}
CONFIGS = {
    "every": EppingConfig(**_COMMON, sample_interval_ns=0),
    "default": EppingConfig(**_COMMON),
    "overflow": EppingConfig(
        **_COMMON | {"max_subnets": 8}, sample_interval_ns=0, prefix_v4=32, prefix_v6=128, scale=6
    ),
    "coarse": EppingConfig(
        **_COMMON, sample_interval_ns=10 * MS, prefix_v4=0, prefix_v6=0, scale=0, max_age_ns=600 * SECOND
    ),
    "tunnels": EppingConfig(**_COMMON, sample_interval_ns=0, tunnels=True),
    "copies": EppingConfig(**_COMMON, sample_interval_ns=0, copies=True),
    "seldom": EppingConfig(**_COMMON, sample_interval_ns=300 * MS, max_age_ns=100 * MS, scale=2),
    "impatient": EppingConfig(**_COMMON, sample_interval_ns=0, prefix_v4=9, prefix_v6=61, scale=2, max_age_ns=100 * MS),
    "events": EppingConfig(**_COMMON, sample_interval_ns=0, events=True),
    **{name: EppingConfig(**_COMMON, sample_interval_ns=0, methods=(name,)) for name in methods.ALL},
}


@dataclass(frozen=True)
class Task:
    """A part of the fuzzing: sends a number of mutated packets with one configuration, or runs one episode."""

    config: str
    seed: int
    packets: int
    only: int | None = None


@dataclass
class Outcome:
    """The result of a task.

    `fault` describes a disagreement between the program and the model. `fault` is empty if the program and the model
    agree.
    """

    config: str
    packets: int = 0
    mutated: int = 0
    seconds: float = 0.0
    kinds: Counter[str] | None = None
    rtts: int = 0
    fault: str = ""


def run(task: Task) -> Outcome:
    """Loads a kernel program for the task, and runs the task."""
    trial = Trial(CONFIGS[task.config])
    try:
        return feed(task, trial)
    finally:
        trial.close()


def feed(task: Task, trial: Trial) -> Outcome:
    """Runs episodes until enough mutated packets were sent, or until the program and the model disagree."""
    outcome, began = Outcome(task.config), time.monotonic()
    number = task.only or 0
    while outcome.mutated < task.packets or task.only is not None:
        episode = episodes.make(f"{task.seed}/{task.config}", number, trial.config)
        found = trial.run(episode)
        outcome.packets += len(episode.steps)
        outcome.mutated += episode.mutated
        outcome.rtts += trial.rtts
        outcome.seconds = time.monotonic() - began
        if found:
            outcome.fault = report(task, trial, episode, number, found)
            break
        if task.only is not None:
            break
        if number % 50 == 0:
            _say(f"{task.config}: {outcome.mutated} of {task.packets} mutated packets")
        number += 1
    return outcome


def report(task: Task, trial: Trial, episode: episodes.Episode, number: int, found: list[str]) -> str:
    """Describes a disagreement between the program and the model in words, and as Python code."""
    _say(f"{task.config}: episode {number} ({episode.name}): {len(found)} disagreements, the first: {found[0]}")
    steps = shrink(trial, episode, lambda text: _say(f"{task.config}: {text}"))
    link = f"link header {episode.link_header}, interface {episode.role.name if episode.role else 'unknown'}"
    lines = [
        f"config {task.config}, seed {task.seed}, episode {number} ({episode.name}), {link}; to run it again:",
        f"    python -m tests.long.fuzz --seed {task.seed} --only {task.config}:{number}",
        *(f"  {line}" for line in trial.run(episode, steps)),
        *(describe(step, steps[0].at_ns, episode.link_header) for step in steps),
    ]
    return "\n".join(lines)


def describe(step: Step, begin_ns: int, link_header: int) -> str:
    """Returns Python code for a step. A comment in the code says how the model reads the packet of the step."""
    meaning = read(step.frame, link_header, step.wire_length or len(step.frame))
    about = f"{(step.at_ns - begin_ns) / MS:.6f} ms, {meaning.kind}, {step.note or 'whole'}"
    return f"  # {about}\n  {step._replace(note='')!r},"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _pin(cpus: Any) -> None:
    os.sched_setaffinity(0, {cpus.get()})


def _tasks(arguments: argparse.Namespace) -> list[Task]:
    if arguments.only:
        config, _, number = arguments.only.partition(":")
        return [Task(config, arguments.seed, 0, int(number))]
    names = arguments.config or list(CONFIGS)
    return [Task(name, arguments.seed, -(-arguments.packets // len(names))) for name in names]


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.long.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--packets", type=int, default=2_000_000, help="number of mutated packets, for all configurations together"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--config", action="append", choices=list(CONFIGS), help="run only this configuration; may be repeated"
    )
    parser.add_argument("--only", metavar="CONFIG:NUMBER", help="run only this episode")
    arguments = parser.parse_args()
    tasks = _tasks(arguments)
    _say(f"captures: {len(talks.captures())} found in {talks.CAPTURES}")
    cpus = sorted(os.sched_getaffinity(0))
    free: multiprocessing.Queue[int] = multiprocessing.Queue()
    for cpu in cpus:
        free.put(cpu)
    began = time.monotonic()
    with multiprocessing.Pool(len(cpus), _pin, (free,)) as pool:
        outcomes = []
        for outcome in pool.imap_unordered(run, tasks, chunksize=1):
            outcomes.append(outcome)
            verdict = "DISAGREES" if outcome.fault else "agrees"
            _say(
                f"{outcome.config}: {outcome.mutated} mutated of {outcome.packets} packets, {outcome.rtts} RTTs, "
                f"{outcome.seconds:.1f} s: {verdict}"
            )
    faults = [outcome.fault for outcome in outcomes if outcome.fault]
    for fault in faults:
        print(fault)
    seconds = time.monotonic() - began
    total, mutated = sum(o.packets for o in outcomes), sum(o.mutated for o in outcomes)
    verdict = f"{len(faults)} of {len(tasks)} configurations DISAGREE" if faults else "program and model agree"
    print(
        f"{mutated} mutated packets of {total}, {sum(o.rtts for o in outcomes)} RTTs, seed {arguments.seed}, "
        f"{total / seconds:.0f} packets/s: {verdict}"
    )
    sys.exit(bool(faults))
