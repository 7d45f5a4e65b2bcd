# SPDX-License-Identifier: Apache-2.0
"""Tests the public API: names are imported lazily, no name is missing, every name is documented, and the API suffices
for a complete measurement."""

import dataclasses
import inspect
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import otel_epping
from otel_epping import (
    EppingCollector,
    EppingConfig,
    EppingError,
    EppingMetricProducer,
    ExportSettings,
    Limits,
    MetricSelection,
)
from otel_epping.instrumentor import environment_variables
from otel_epping.kernel import libbpf
from otel_epping.lab.namespaces import Namespace
from otel_epping.otel import metric_table
from otel_epping.settings.definitions import DEFINITIONS, NETWORK_SETTINGS
from otel_epping.settings.model import INTERFACE_SETTINGS
from scripts import api_page
from tests.support.command import converse
from tests.support.lab_agent import eventually
from tests.support.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[1]
SMALL = EppingConfig(max_subnets=64, max_flows=64, sample_interval_ns=0)


def python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_neither_numpy_nor_opentelemetry() -> None:
    loaded = python("import otel_epping, sys; print(otel_epping.__version__, *sys.modules)").split()
    assert loaded[0] == otel_epping.__version__
    assert not [name for name in loaded if name.startswith(("numpy", "opentelemetry", "otel_epping.kernel"))]


def test_the_package_has_exactly_the_public_names() -> None:
    assert python("from otel_epping import *; print(*sorted(name for name in dir() if name[:2] != '__'))").split() == [
        name for name in sorted(otel_epping.__all__) if name != "__version__"
    ]
    assert set(otel_epping.__all__) <= set(dir(otel_epping))
    with pytest.raises(AttributeError, match="module 'otel_epping' has no attribute 'Collector'"):
        _ = otel_epping.Collector


def test_the_api_page_matches_the_docstrings() -> None:
    page = (ROOT / "docs/api.md").read_text()
    assert page == api_page.markdown(), "run `make docs`"
    headings = [line.removeprefix("## ").replace("\\", "") for line in page.splitlines() if line.startswith("## ")]
    assert sorted(headings) == sorted(otel_epping.__all__)


@pytest.mark.parametrize("cls", [EppingConfig, ExportSettings, Limits, MetricSelection])
def test_each_field_is_documented(cls: type) -> None:
    documented = re.findall(r"^(\w+)  +\S", inspect.getdoc(cls) or "", re.M)  # without the indent, as in Python 3.13
    assert sorted(documented) == sorted(field.name for field in dataclasses.fields(cls))


def test_the_instrumentors_variables_are_settings() -> None:
    names = {name for name in vars(environment_variables) if name.startswith("OTEL_")}
    fields = {field.name for cls in (EppingConfig, Limits, MetricSelection) for field in dataclasses.fields(cls)} | {
        *INTERFACE_SETTINGS,
        *NETWORK_SETTINGS,
        "idle_timeout_ns",
    }
    assert names == {setting.variable for setting in DEFINITIONS if setting.field in fields} | {"OTEL_EPPING_CONFIG"}
    assert all(getattr(environment_variables, name) == name for name in names)


def test_the_instrumentors_docstring_has_each_metric() -> None:
    rows = [line.split() for line in (sys.modules["otel_epping.instrumentor"].__doc__ or "").splitlines()]
    listed = [(row[0], " ".join(row[1:])) for row in rows if row and row[0].startswith("epping.")]
    assert listed == [(metric.name, metric.kind) for metric in metric_table.METRICS]


def counted(producer: EppingMetricProducer) -> int:
    """Returns the number of RTTs in all points."""
    metrics = [metric for metric in producer.produce().metrics if metric.name == metric_table.RTT.name]
    points: list[Any] = [point for metric in metrics for point in metric.data.data_points]
    return sum(point.count for point in points)


def lose_links() -> None:
    """Detaches all TCX links of this process, like `bpftool link detach`."""
    for file in Path("/proc/self/fdinfo").iterdir():
        with suppress(FileNotFoundError):
            if "link_id" in file.read_text():
                libbpf.link_detach(int(file.name))


@pytest.mark.parametrize("role", ["wan", "lan", "mirror"])
def test_a_collector_measures_while_it_is_attached(ns: Namespace, role: str) -> None:
    with ns.entered(), EppingCollector(SMALL) as collector:
        producer = EppingMetricProducer(collector)
        collector.attach("lo", role)  # type: ignore[arg-type]
        converse(ns)
        before = counted(producer)
        assert before
        collector.detach("lo")
        converse(ns)
        assert counted(producer) == before


def test_a_collector_attaches_its_program_again(ns: Namespace) -> None:
    with ns.entered(), EppingCollector(SMALL) as collector:
        producer = EppingMetricProducer(collector)
        collector.attach("lo")
        lose_links()

        def measures() -> bool:
            converse(ns)
            return counted(producer) > 0

        eventually(measures, PATIENCE_S, "the program is attached again")


def test_an_interface_that_does_not_exist(ns: Namespace) -> None:
    with ns.entered(), EppingCollector(SMALL) as collector:
        with pytest.raises(EppingError, match="nowhere0"):
            collector.attach("nowhere0")
        collector.detach("nowhere0")


def test_the_variables_are_options_of_opentelemetry_instrument() -> None:
    command = [str(Path(sys.executable).with_name("opentelemetry-instrument")), "--help"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    options = {f"--{name.removeprefix('OTEL_').lower()}" for name in vars(environment_variables) if "OTEL_" in name}
    assert options <= set(listed)
