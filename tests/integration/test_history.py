# SPDX-License-Identifier: Apache-2.0
"""Tests histories that are read from the real Prometheus. The histories have exactly the exported counts."""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData, ResourceMetrics
from opentelemetry.sdk.resources import Resource

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.sources.kinds import read_sources
from otel_epping.history.sources.live import LiveSource
from otel_epping.lab.topology import Lab
from otel_epping.otel.exporter import ProducerExporter
from tests.history.otlp_lines import EVERYTHING, S, content
from tests.history.test_live import CONFIG
from tests.integration.backends import prometheus
from tests.support.synthetic_kernel import SyntheticCollector, SyntheticKernel

STEPS, STEP_S, RESTART = 30, 60, 17
_ENDPOINT = "http://127.0.0.1:9090/api/v1/otlp/v1/metrics"


class Exported(NamedTuple):
    """`live` has the counts after the first export. `url` is the source, with the time range of the exports."""

    lab: Lab
    live: History
    url: str

    def read(self, more: str = "") -> History:
        with self.lab.router.entered():
            return read_sources([self.url + more])


class _Source:
    """A synthetic agent that exports to Prometheus, and adds slices to a live history at the same times."""

    def __init__(self, live: History) -> None:
        self.kernel, self._live = SyntheticKernel(CONFIG, 12), live
        collector: Any = SyntheticCollector(self.kernel)
        self._source = LiveSource(collector, live.numbering)
        self._exporter = ProducerExporter(
            OTLPMetricExporter(endpoint=_ENDPOINT), collector, EVERYTHING, forward_sdk=False
        )

    def export(self, time_ns: int, *, is_counted: bool) -> None:
        self.kernel.now_ns = time_ns - 1
        found = self._source.take()
        if is_counted:
            self._live.add(found)
        resource = Resource({"service.instance.id": "a", "service.name": "otel-epping"})
        result = self._exporter.export(MetricsData([ResourceMetrics(resource, [], "")]))
        assert result is MetricExportResult.SUCCESS


@pytest.fixture(
    scope="module",
    params=[
        "UnderscoreEscapingWithSuffixes",
        "UnderscoreEscapingWithoutSuffixes",
        "NoUTF8EscapingWithSuffixes",
        "NoTranslation",
    ],
)
def exported(lab: Lab, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Exported]:
    """Thirty exports of one agent, with one restart of the agent."""
    folder: Path = tmp_path_factory.mktemp("history")
    (folder / "prometheus.yml").write_text(f"otlp: {{translation_strategy: {request.param}}}\n")
    chance, live = random.Random(3), History()
    begin_s = int(time.time()) // STEP_S * STEP_S - STEPS * STEP_S
    with prometheus(lab.router, folder), lab.router.entered():
        source = _Source(live)
        source.kernel.packet(1, 100)
        source.kernel.rtt(1, 0, 5_000_000)
        for step in range(STEPS + 1):
            if step == RESTART:
                source = _Source(live)
            for _ in range(30 if step else 0):
                source.kernel.packet(chance.randrange(8), chance.randrange(60, 1500))
                # After the restart there are fewer counts than before, so that the values decrease.
                if chance.random() < (0.1 if step == RESTART else 1):
                    source.kernel.rtt(chance.randrange(6), chance.randrange(3), int(10 ** chance.uniform(4, 9)))
            source.export((begin_s + step * STEP_S) * S, is_counted=step > 0)
        url = f"http://127.0.0.1:9090/?start={begin_s}&end={begin_s + STEPS * STEP_S}"
        yield Exported(lab, live, url)


def counts(history: History) -> dict[Any, Any]:
    """Removes the minimum and the maximum, which Prometheus does not store."""
    return {
        key: (found[1], found[2][0]) if isinstance(found, tuple) else found
        for key, found in content(history, 0).items()
    }


def test_prometheus_has_the_counts_of_the_live_history(exported: Exported) -> None:
    history = exported.read("&step=1m")
    assert counts(history) == counts(exported.live)
    assert len(history) == STEPS
    assert history.total().seconds == STEPS * STEP_S
    assert any("the agent was restarted" in note for note in history.notes)


def test_labels_select_series(exported: Exported) -> None:
    assert counts(exported.read('&match={job="otel-epping"}')) == counts(exported.read())
    with pytest.raises(EppingError, match="no metrics of otel-epping in the range of time"):
        exported.read('&match=job="other"')


def test_errors_of_prometheus_are_told(exported: Exported) -> None:
    with pytest.raises(EppingError, match="parse error"):
        exported.read("&match=job=")
