# SPDX-License-Identifier: Apache-2.0
"""Selects which kernel runs with which userland, and which tests run there."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from tests.vm.cache import VmError
from tests.vm.images import RELEASES
from tests.vm.kernels import SUITES

# Tests that depend on both the compiler and the kernel.
PAIR_TESTS = ("loading", "settings", "hooks", "watch", "replay")
# Tests that depend only on the kernel. These tests run once for each kernel, with the userland of the kernel's own
# release.
KERNEL_TESTS = ("neighbours", "devices", "cards")
QUICK_TESTS = ("loading", "hooks", "watch", "replay")
TESTS = (*PAIR_TESTS, *KERNEL_TESTS)


class Run(NamedTuple):
    """A machine: the suite of its kernel, the release of its userland, and its tests."""

    kernel: str
    userland: str
    tests: list[str]


def own_userland(kernel: str) -> str:
    """Return the release that a kernel's suite belongs to."""
    return kernel.removesuffix("-backports")


def quick(newest: str) -> list[Run]:
    """Return two machines: the oldest kernel with the oldest userland, and the newest kernel with Debian 13."""
    return [Run("bookworm", "bookworm", list(QUICK_TESTS)), Run(newest, "trixie", list(QUICK_TESTS))]


def everything() -> list[Run]:
    """Return all combinations of a kernel and a userland."""
    return [
        Run(kernel, userland, list(TESTS if userland == own_userland(kernel) else PAIR_TESTS))
        for kernel in SUITES
        for userland in RELEASES
    ]


def chosen(runs: Sequence[Run], only: Collection[str]) -> list[Run]:
    """Return the requested runs. `only` may have tests (such as devices), kernels (such as sid) and pairs (such as
    sid+trixie). If `only` has kernels or pairs, then only the machines with these kernels and the machines of these
    pairs run. If `only` has tests, each machine runs these tests instead of its default tests.

    A test can be requested for any pair, even if the pair does not run this test by default. Raises VmError if no
    machine remains.
    """
    pairs = {f"{run.kernel}+{run.userland}" for run in runs}
    if unknown := set(only) - pairs - set(SUITES) - set(TESTS):
        known = ", ".join([*TESTS, *SUITES, *sorted(pairs)])
        raise VmError(f"ONLY={','.join(sorted(unknown))}: there is no such test or machine; choose from {known}")
    tests = [test for test in TESTS if test in only]
    machines = [name for name in only if name not in TESTS]
    left = [
        Run(run.kernel, run.userland, tests or run.tests)
        for run in runs
        if not machines or run.kernel in machines or f"{run.kernel}+{run.userland}" in machines
    ]
    if not left:
        raise VmError(f"ONLY={','.join(only)}: no machine is left; add ALL=1 to choose from all machines")
    return left
