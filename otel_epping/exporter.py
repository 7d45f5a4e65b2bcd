# SPDX-License-Identifier: Apache-2.0
"""The push path: an exporter around an exporter, which adds the kernel's counts to what passes through it.

Wrapping the exporter is the SDK's one public extension point that sees whether an export succeeded. So here what was
delivered is acknowledged, request by request, and what wasn't stays pending in the producer.

Requests to the official OTLP exporters are written by us (wire/), which takes a thirtieth of the time; any other
exporter is given objects of the SDK.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
)

from otel_epping.kernel.collector import Collector
from otel_epping.producer import Batch, EppingMetricProducer
from otel_epping.retimed import retimed
from otel_epping.wire.transport import Answer, sender
from otel_epping.writer import Writer

_log = logging.getLogger(__name__)
# Where the official exporters say what went wrong.
_exporters_log = logging.getLogger("opentelemetry.exporter")

# An export that fails at once was refused, and the next may not be; one that failed after this many seconds of retrying
# found nobody there, and so would the next.
_AWAY_S = 1.0
_LEAST_TIMEOUT_S = 30.0


class ProducerExporter(MetricExporter):
    """Exports a collector's metrics through `inner`, along with what the SDK hands over (if `forward_sdk`).

    Temporality is the one that `inner` prefers for histograms, for all our metrics: those of a subnet stay together.
    `failed` counts the requests that failed, `rejected` the points that the receiver refused of those that didn't (OTLP
    specification, "Partial Success": they are not to be sent again). `on_result`, if given, is told after each export
    how many of its requests failed.
    """

    def __init__(
        self,
        inner: MetricExporter,
        collector: Collector,
        *,
        forward_sdk: bool = True,
        on_result: Callable[[int], None] | None = None,
    ) -> None:
        # Private, but what the SDK's own PeriodicExportingMetricReader reads.
        temporality = inner._preferred_temporality
        super().__init__(preferred_temporality=temporality, preferred_aggregation=inner._preferred_aggregation)
        self.producer = EppingMetricProducer(collector, self.temporality_of(temporality))
        self.failed = 0
        self.rejected = 0
        self.export_seconds = 0.0  # that the latest export took, with its reading
        self._said = ""  # by the receiver, of the latest request
        self._inner = inner
        self._sender = sender(inner)
        self._writer = Writer(self.producer)
        self._forward_sdk = forward_sdk
        self._on_result = on_result
        self._first = 0
        self._told_ns = 0  # when the latest reading was taken
        self._lock = threading.Lock()
        self._process = os.getpid()

    @staticmethod
    def temporality_of(preferred: dict[type, AggregationTemporality] | None) -> AggregationTemporality:
        """The temporality that an exporter or reader with these preferences gets from us, for all metrics."""
        return (preferred or {}).get(Histogram, AggregationTemporality.CUMULATIVE)

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Reads the kernel's counts and exports them in requests far smaller than a receiver's limit.

        Not in a forked child, where the SDK starts its readers anew: there, only what the SDK hands over is exported.
        """
        if os.getpid() != self._process:
            if self._forward_sdk:
                return self._inner.export(metrics_data, timeout_millis=timeout_millis)
            return MetricExportResult.SUCCESS
        # The SDK gives its last export the interval for a timeout, which may be short.
        began = time.monotonic()
        deadline = began + max(timeout_millis / 1e3, _LEAST_TIMEOUT_S)
        with self._lock:
            try:
                self.producer.read()
            except Exception:
                # Whatever is wrong with us, the application's own metrics get through.
                _log.exception("cannot read the kernel's counts")
                failed = 1
                if self._forward_sdk:
                    self._hand_over(metrics_data, timeout_millis)
            else:
                failed = self._export_batches(metrics_data, deadline)
            self.failed += failed
            self.export_seconds = time.monotonic() - began
        if self._on_result:
            self._on_result(failed)
        return MetricExportResult.FAILURE if failed else MetricExportResult.SUCCESS

    def _export_batches(self, metrics_data: MetricsData, deadline: float) -> int:
        """How many requests failed; what the deadline leaves no time for is one of them."""
        failed = 0
        first, self._first = self._first, 0
        for turn, batch in enumerate(self.producer.batches(first)):
            began = time.monotonic()
            if began > deadline:
                failed += 1
                self._first = first + turn
                break
            with_sdk = self._forward_sdk and turn == 0
            if self._deliver(metrics_data, batch, (deadline - began) * 1e3, with_sdk=with_sdk):
                self.producer.acknowledge(batch)
                continue
            failed += 1
            if time.monotonic() - began > _AWAY_S:
                # The next export begins behind this request: none that is never taken keeps all others back.
                self._first = first + turn + 1
                break
        return failed

    def _deliver(self, metrics_data: MetricsData, batch: Batch, timeout_millis: float, *, with_sdk: bool) -> bool:
        """Whether the receiver has the batch now."""
        theirs = metrics_data.resource_metrics
        if with_sdk:
            now_ns = batch.reading.time_ns
            theirs, self._told_ns = retimed(theirs, self._told_ns, now_ns), now_ns
        else:
            theirs = [ResourceMetrics(theirs[0].resource, [], theirs[0].schema_url)]
        if self._sender:
            try:
                answer = self._sender.send(self._writer.request(theirs, batch))
            except Exception:
                # Another release of the exporter than we know, or a metric of the application's that nobody can encode.
                _log.exception("cannot send requests written by us: from now on the exporter writes its own")
                self._sender = None
            else:
                self._take_note(answer)
                return answer.result is MetricExportResult.SUCCESS
        first, *others = theirs
        merged = ResourceMetrics(first.resource, [*first.scope_metrics, self.producer.metrics(batch)], first.schema_url)
        return self._hand_over(MetricsData([merged, *others]), timeout_millis)

    def _hand_over(self, metrics_data: MetricsData, timeout_millis: float) -> bool:
        """Whether the inner exporter says that it got through; one that raises (to a full disk) says no."""
        try:
            result = self._inner.export(metrics_data, timeout_millis=timeout_millis)
        except Exception as error:
            _exporters_log.error("%s: %s", type(self._inner).__name__, error)
            return False
        return result is MetricExportResult.SUCCESS

    def _take_note(self, answer: Answer) -> None:
        """Counts what the receiver rejected, and says why: once, for as long as it says the same."""
        self.rejected += answer.rejected
        if answer.message and answer.message != self._said:
            _log.warning("the receiver rejects %d points: %s", answer.rejected, answer.message)
        self._said = answer.message

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Has the inner exporter deliver what it holds."""
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Shuts the inner exporter down. The reader has exported the last interval before it calls this."""
        self._inner.shutdown(timeout_millis=timeout_millis, **kwargs)
