# SPDX-License-Identifier: Apache-2.0
"""The knobs of the kernel program, and what a user reads when it cannot be loaded."""

import re
import shutil
import subprocess
import sys
import venv
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from otel_epping.kernel import libbpf, loader, memory, requirements
from otel_epping.kernel.collector import Collector
from otel_epping.kernel.config import KernelConfig, possible_cpus
from otel_epping.kernel.errors import EppingError
from otel_epping.lab.namespaces import Namespace

ROOT = Path(__file__).parents[1]
RANGES = {
    "max_subnets": (1, 4_000_000),
    "max_flows": (64, 16_000_000),
    "prefix_v4": (0, 32),
    "prefix_v6": (0, 128),
    "sample_interval_ns": (0, 64_000_000_000),
    "max_age_ns": (1_000_000, 600_000_000_000),
    "scale": (0, 6),
}
MIB = 1 << 20


def load(config: KernelConfig | None = None) -> Collector:
    return Collector(config or KernelConfig(max_subnets=64, max_flows=64))


def test_defaults_are_those_of_the_source() -> None:
    source = (ROOT / "bpf" / "config.h").read_text()
    defined = {name: int(value) for name, value in re.findall(r"^#define (\w+) (\d+)$", source, re.MULTILINE)}
    assert set(re.findall(r"^#ifndef (\w+)$", source, re.MULTILINE)) == set(defined)
    knobs = KernelConfig().defines()
    assert knobs.pop("CPUS") == possible_cpus()
    assert defined.pop("CPUS") == 1
    assert round(10**9 / knobs.pop("TICK_NS")) in (100, 250, 300, 1000)  # CONFIG_HZ
    assert 10**9 / defined.pop("TICK_NS") == 250
    assert defined.pop("HASH_KEY") % 2 == 1
    assert knobs == defined


@pytest.mark.parametrize("knob", RANGES)
def test_a_value_out_of_range_is_refused(knob: str) -> None:
    for good in RANGES[knob]:
        assert KernelConfig(**{knob: good}).defines()[knob.upper()] == good  # type: ignore[arg-type]
    least, greatest = RANGES[knob]
    for bad in (least - 1, greatest + 1, -(10**12), 10**12):
        with pytest.raises(EppingError) as caught:
            KernelConfig(**{knob: bad})  # type: ignore[arg-type]
        message = str(caught.value)
        assert knob in message
        assert {str(bad), str(least), str(greatest)} <= set(re.findall(r"-?\d+", message.removeprefix(knob)))
        assert "\n" not in message


def test_the_least_of_everything_loads() -> None:
    least = {knob: limits[0] for knob, limits in RANGES.items()}
    with load(KernelConfig(**least)) as collector:  # type: ignore[arg-type]
        assert memory.map_info(collector.program.maps["subnets"].fd)["max_entries"] == 1


def test_kernel_memory_at_defaults() -> None:
    with load(KernelConfig()) as collector:
        by_map = collector.kernel_bytes
        assert by_map.keys() == collector.program.maps.keys()
        # What the tables hold at the very least, lest the figures be empty.
        assert by_map["histograms"] >= 16_385 * 4 * 415
        assert by_map["flows"] >= 80_000 * 160
        assert sum(by_map.values()) <= (64 + 4 * possible_cpus()) * MIB


def test_a_layout_that_the_kernel_does_not_share_is_found() -> None:
    with load() as collector:
        histograms = collector.program.maps["histograms"]
        assert histograms.layout
        size = histograms.layout["size"]
        assert len(memory.Array("histograms", histograms).rows(0, 65)) == 65
        shifted: dict[str, Any] = histograms.layout | {"size": size + 8}
        with pytest.raises(EppingError, match=f"histograms.* {size + 8} .* {size}"):
            memory.Array("histograms", loader.Map(histograms.fd, shifted))
        with pytest.raises(EppingError, match=f"histograms.* {size}"):
            memory.Array("histograms", loader.Map(histograms.fd, None))


# ---- BCC


def interpreter(folder: Path, bcc: str | None) -> str:
    """A Python of its own that has a module `bcc` of this source, or none."""
    venv.create(folder, symlinks=True, with_pip=False)
    if bcc is not None:
        (site,) = folder.glob("lib/python3*/site-packages")
        (site / "bcc").mkdir()
        (site / "bcc" / "__init__.py").write_text(bcc)
    return str(folder / "bin" / "python")


WRONG = "class Crystal: pass"  # all that matters of PyPI's bcc: there is no BPF in it


def refusal(monkeypatch: pytest.MonkeyPatch, *interpreters: str) -> EppingError:
    monkeypatch.setattr(loader, "interpreters", lambda: list(interpreters))
    with pytest.raises(EppingError) as caught:
        load()
    assert "\n" not in str(caught.value)
    return caught.value


def test_another_package_called_bcc_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = str(refusal(monkeypatch, interpreter(tmp_path, WRONG)))
    assert str(tmp_path) in message
    assert message.index("pip uninstall bcc") < message.index("apt-get install python3-bpfcc")


def test_another_package_called_bcc_does_no_harm_beside_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "interpreters", lambda: [interpreter(tmp_path, WRONG), loader.SYSTEM_PYTHON])
    with load() as collector:
        assert collector.program.interpreter == loader.SYSTEM_PYTHON


def test_another_package_called_bcc_is_named_though_another_interpreter_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = interpreter(tmp_path / "without", None)
    assert str(tmp_path / "wrong") in str(refusal(monkeypatch, interpreter(tmp_path / "wrong", WRONG), without))


def test_no_bcc_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "apt-get install python3-bpfcc" in str(refusal(monkeypatch, interpreter(tmp_path, None)))
    assert "apt-get install python3-bpfcc" in str(refusal(monkeypatch))


def test_a_bcc_whose_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `import bcc` does then: ctypes raises OSError."""
    broken = interpreter(tmp_path, "import ctypes\nctypes.CDLL('libbcc-that-is-not-there.so.0')")
    error = refusal(monkeypatch, broken)
    assert "apt-get install" in str(error)
    assert "libbcc-that-is-not-there" in f"{error} {error.detail}"


def test_without_privilege_the_error_says_so() -> None:
    """Not that something should be installed: making a map is what fails first."""
    attempt = "from otel_epping.kernel.collector import Collector; Collector()"
    unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
    result = subprocess.run(
        [*unprivileged, sys.executable, "-c", attempt], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode
    last = result.stderr.strip().splitlines()[-1]
    assert "EppingError" in last
    assert re.search("CAP_BPF|root|privilege|permission|permitted", last, re.IGNORECASE), last
    assert "linux-libc-dev" not in last


def test_more_cpus_than_tables_have_room_for_are_told_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "possible_cpus", lambda: requirements.MOST_CPUS + 1)
    with pytest.raises(EppingError, match=r"1025 possible CPUs are too many: .* nr_cpus=1024$"):
        load()


# ---- compiler and verifier


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of bpf/ that the loader takes."""
    folder = shutil.copytree(loader.source_folder(), tmp_path / "bpf")
    monkeypatch.setattr(loader, "source_folder", lambda: folder)
    load().close()
    return folder


def test_a_compile_error_comes_with_the_compilers_log(source: Path) -> None:
    header = source / "tcp_timestamp.h"
    text = header.read_text()
    header.write_text(text + "static int broken(void) { return no_such_name; }\n")
    with pytest.raises(EppingError, match="cannot compile") as caught:
        load()
    assert "\n" not in str(caught.value)
    line = len(text.splitlines()) + 1
    assert f"tcp_timestamp.h:{line}:" in caught.value.detail
    assert "no_such_name" in caught.value.detail


def test_a_refusal_by_the_verifier_comes_with_its_log(source: Path) -> None:
    program = source / "epping.bpf.c"
    text = program.read_text()
    assert text.count("return TC_ACT_UNSPEC;") == 1
    program.write_text(text.replace("return TC_ACT_UNSPEC;", "return *(int *)(long)skb->data;"))
    with pytest.raises(EppingError, match="refuses") as caught:
        load()
    assert "\n" not in str(caught.value)
    assert "invalid access to packet" in caught.value.detail


# ---- attaching


def test_attaching_again_does_not_detach() -> None:
    with Namespace("attached") as namespace:
        namespace.ip("link add left index 77 type veth peer name right", "link set left up")
        with namespace.entered(), load() as collector:
            hooks = (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS)
            collector.attachments.attach("left")
            assert [libbpf.attached_count(77, hook) for hook in hooks] == [1, 1]
            with suppress(EppingError):  # or it does nothing
                collector.attachments.attach("left")
            assert [libbpf.attached_count(77, hook) for hook in hooks] == [1, 1]
            collector.attachments.detach("left")
            assert [libbpf.attached_count(77, hook) for hook in hooks] == [0, 0]
