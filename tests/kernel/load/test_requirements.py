# SPDX-License-Identifier: Apache-2.0
"""Tests what `check` prints about tested and untested kernels, machines and compilers."""

import platform
from pathlib import Path

import pytest

from otel_epping.kernel.load import requirements

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


PLATFORMS = Path(__file__).parents[3] / "docs" / "platforms.md"


@pytest.mark.parametrize(
    ("release", "machine", "words"),
    [
        ("6.1.0-32-amd64", "x86_64", "tested on Linux {0} to {1}"),
        ("6.18.44", "x86_64", "tested on Linux {0} to {1}"),
        ("5.15.0", "x86_64", "should work, but was not tested before Linux {0}"),
        ("99.0", "x86_64", "should work, but was not tested after Linux {1}"),
        ("6.12.0", "aarch64", "tested on Linux {0} to {1}; not tested on aarch64, only on x86_64"),
    ],
)
def test_kernels(monkeypatch: pytest.MonkeyPatch, release: str, machine: str, words: str) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    versions = (".".join(map(str, version)) for version in requirements.TESTED_KERNELS)
    assert requirements.tested_kernel() == words.format(*versions)


def test_versions_of_bcc() -> None:
    known = ", ".join(requirements.TESTED_BCC)
    assert [requirements.tested_bcc(f"{version}.0") for version in requirements.TESTED_BCC] == [
        f"tested with BCC {known}"
    ] * len(requirements.TESTED_BCC)
    assert requirements.tested_bcc("0.3.0") == requirements.tested_bcc("unknown")
    assert requirements.tested_bcc("0.3.0") == f"should work, but was tested only with BCC {known}"


def test_tested_versions_are_in_the_documentation() -> None:
    text = PLATFORMS.read_text()
    for version in requirements.TESTED_BCC:
        assert f"BCC {version}" in text
    for kernel in requirements.TESTED_KERNELS:
        assert ".".join(map(str, kernel)) in text
