# SPDX-License-Identifier: Apache-2.0
"""Tests the settings of the kernel program, and the errors for a kernel program that cannot be loaded."""

import ipaddress
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from otel_epping.errors import EppingError
from otel_epping.kernel import config, libbpf, map_array, methods
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig, possible_cpus
from otel_epping.kernel.program import Map
from otel_epping.lab.namespaces import Namespace
from otel_epping.replay.replayer import MALFORMED_MARK
from tests.support.named import networks_of

pytestmark = pytest.mark.parallel


ROOT = Path(__file__).parents[2]
RANGES = {
    "max_subnets": (1, 4_000_000),
    "max_flows": (64, 16_000_000),
    "prefix_v4": (0, 32),
    "prefix_v6": (0, 128),
    "sample_interval_ns": (0, 64_000_000_000),
    "max_age_ns": (1_000_000, 600_000_000_000),
    "scale": (0, 6),
}
# max_subnets determines the sizes of three tables. Each of the other settings is one constant.
MIB = 1 << 20


def load(config: EppingConfig | None = None) -> EppingCollector:
    return EppingCollector(config or EppingConfig(max_subnets=64, max_flows=64))


def test_defaults_are_those_of_the_source() -> None:
    source = (ROOT / "bpf" / "config.h").read_text()
    defined: dict[str, int | str] = {
        name: int(value) for name, value in re.findall(r"^#define (\w+) (\d+)$", source, re.MULTILINE)
    }
    assert defined.pop("MALFORMED_MARK") == MALFORMED_MARK  # not a setting
    knobs = EppingConfig().defines()
    (nat64,) = re.findall(r"^#define EACH_NAT64\(PREFIX\) (.*)$", source, re.MULTILINE)
    assert knobs.pop("EACH_NAT64(PREFIX)") == nat64.replace(", ", ",")
    assert set(re.findall(r"^#ifndef (\w+)$", source, re.MULTILINE)) == {*defined, "EACH_NAT64"}
    assert knobs.pop("CPUS") == possible_cpus()
    assert defined.pop("CPUS") == 1
    assert round(10**9 / int(knobs.pop("TICK_NS"))) in (100, 250, 300, 1000)  # CONFIG_HZ
    assert 10**9 / int(defined.pop("TICK_NS")) == 250
    assert int(defined.pop("HASH_KEY")) % 2 == 1
    assert knobs.pop("METHODS") == (1 << len(methods.ALL)) - 1  # bpf/methods.h enables all methods by default
    assert knobs == defined


@pytest.mark.parametrize("knob", RANGES)
def test_a_value_out_of_range_is_an_error(knob: str) -> None:
    for good in RANGES[knob]:
        constants = EppingConfig(**{knob: good}).defines()  # type: ignore[arg-type]
        tables = {
            "MAX_SLOTS": 2 * good + max(1, good // 8),
            "MAX_HISTOGRAMS": 3 * good,
            "MAX_BLOCKS": 15 * good // 2,
        }
        expected = tables if knob == "max_subnets" else {knob.upper(): good}
        assert expected.items() <= constants.items()
    least, greatest = RANGES[knob]
    for bad in (least - 1, greatest + 1, -(10**12), 10**12):
        with pytest.raises(EppingError) as caught:
            EppingConfig(**{knob: bad})  # type: ignore[arg-type]
        message = str(caught.value)
        assert knob in message
        assert {str(bad), str(least), str(greatest)} <= set(re.findall(r"-?\d+", message.removeprefix(knob)))
        assert "\n" not in message


def test_a_program_with_all_minimum_values_loads() -> None:
    least = {knob: limits[0] for knob, limits in RANGES.items()}
    with load(EppingConfig(**least)) as collector:  # type: ignore[arg-type]
        assert map_array.map_info(collector.program.maps["subnets"].fd)["max_entries"] == 3


def test_kernel_memory_at_defaults() -> None:
    with load(EppingConfig()) as collector:
        by_map = collector.kernel_bytes
        assert by_map.keys() == collector.program.maps.keys()
        # The reported size of each table must be at least the number of its entries multiplied by the minimum size of
        # an entry.
        assert by_map["slots"] >= (2 * 16_384 + 2048) * 64
        assert by_map["histograms"] >= 3 * 16_384 * 168
        assert by_map["blocks"] >= 15 * 8_192 * 64
        assert by_map["flows"] >= 80_000 * 160
        assert sum(by_map.values()) <= (64 + 7 * possible_cpus()) * MIB


@pytest.mark.parametrize(
    ("cpus", "prefixes", "prefix_v6", "bits"),
    [
        (1, 0, 48, 14),
        (2, 8_192, 48, 14),
        (2, 8_193, 48, 15),
        (2, 60_000, 48, 17),
        (2, 100_000, 48, 18),
        (8, 100_000, 48, 18),  # 64 MiB for all CPUs
        (9, 100_000, 48, 17),
        (8, 100_000, 128, 17),  # an entry has 48 bytes
        (64, 100_000, 48, 15),
        (64, 10, 48, 14),
        (1024, 100_000, 48, 12),
    ],
)
def test_rows_of_the_slot_cache(
    cpus: int, prefixes: int, prefix_v6: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "possible_cpus", lambda: cpus)
    named = EppingConfig(named_networks=True, named_prefixes=prefixes, prefix_v6=prefix_v6)
    assert named.defines()["SLOT_CACHE_BITS"] == bits
    assert EppingConfig(prefix_v6=prefix_v6).defines()["SLOT_CACHE_BITS"] == 12


@pytest.mark.parametrize("prefix_v6", [48, 128])
def test_kernel_memory_with_names(prefix_v6: int) -> None:
    """The number of named prefixes decides the size of the slot cache."""
    addresses = ipaddress.ip_network("10.0.0.0/18")
    names = networks_of({ipaddress.ip_network(each): str(each) for each in addresses})
    small = EppingConfig(max_subnets=64, max_flows=64, prefix_v6=prefix_v6)
    with EppingCollector(small, networks=names) as collector:
        assert len(names.prefixes) == 1 << 14
        assert collector.config.slot_cache_bits == 15
        rows = possible_cpus() << 15
        assert 0 <= collector.kernel_bytes["slot_cache"] - rows * (48 if prefix_v6 > 64 else 32) < 8192


def test_a_layout_of_another_size_is_an_error() -> None:
    with load() as collector:
        histograms = collector.program.maps["histograms"]
        assert histograms.layout
        size = histograms.layout["size"]
        assert len(map_array.Array("histograms", histograms).rows(0, 65)) == 65
        shifted: dict[str, Any] = histograms.layout | {"size": size + 8}
        with pytest.raises(EppingError, match=f"histograms.* {size + 8} .* {size}"):
            map_array.Array("histograms", Map(histograms.fd, shifted))
        with pytest.raises(EppingError, match=f"histograms.* {size}"):
            map_array.Array("histograms", Map(histograms.fd, None))


# ---- attaching


def test_attaching_again_does_not_detach() -> None:
    with Namespace("attached") as namespace:
        namespace.ip("link add left index 77 type veth peer name right", "link set left up")
        with namespace.entered(), load() as collector:
            hooks = (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS)
            collector.attachments.attach("left")
            assert [libbpf.attached_count(77, hook) for hook in hooks] == [1, 1]
            with suppress(EppingError):  # the second call of attach() may fail or have no effect
                collector.attachments.attach("left")
            assert [libbpf.attached_count(77, hook) for hook in hooks] == [1, 1]
            collector.attachments.detach("left")
            assert [libbpf.attached_count(77, hook) for hook in hooks] == [0, 0]
