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

from otel_epping.kernel.collector import EppingCollector
from otel_epping.otel.batch import ExportBatch
from otel_epping.otel.explicit_buckets import explicit
from otel_epping.otel.otlp.answer import Answer
from otel_epping.otel.otlp.encoder import Writer
from otel_epping.otel.otlp.failure import Failure, Once, kind_of
from otel_epping.otel.otlp.request import encoded
from otel_epping.otel.otlp.transport import sender
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.otel.timestamps import retimed
from otel_epping.otel.undelivered_deltas import Undelivered
from otel_epping.otel.variables.certificates import Certificates

_log = logging.getLogger(__name__)

# An export that fails at once was refused, and the next may not be; one that failed after this many seconds of retrying
# found nobody there, and so would the next.
_AWAY_S = 1.0
_LEAST_TIMEOUT_S = 30.0
# The most time that is given to an export, and to a request of an exporter whose timeout is not known.
_LONGEST_S = 300.0
# The cause is in what the exporter logged.
_UNKNOWN = Failure("")


class ProducerExporter(MetricExporter):
    """Exports a collector's metrics through `inner`, along with what the SDK hands over (if `forward_sdk`).

    Temporality is the one that `inner` prefers for histograms, for all our metrics: those of a subnet stay together.
    `failed` counts the requests that failed, `rejected` the points that the receiver refused of those that didn't (OTLP
    specification, "Partial Success": they are not to be sent again). `on_result`, if given, is called after each export
    with the failure, or None. `explicit_buckets` has histograms exported with explicit buckets. `certificates` are the
    files that the TLS of `inner` was set up with.
    """

    def __init__(
        self,
        inner: MetricExporter,
        collector: EppingCollector,
        *,
        forward_sdk: bool = True,
        on_result: Callable[[Failure | None], None] | None = None,
        explicit_buckets: bool = False,
        certificates: Certificates | None = None,
    ) -> None:
        # Private, but what the SDK's own PeriodicExportingMetricReader reads.
        temporality = inner._preferred_temporality
        super().__init__(preferred_temporality=temporality, preferred_aggregation=inner._preferred_aggregation)
        self.producer = EppingMetricProducer(collector, self.temporality_of(temporality))
        self.failed = 0
        self.rejected = 0
        self.export_seconds = 0.0  # that the latest export took, with its reading
        self._messages = Once()  # of the receiver, for points that it rejected
        self._inner = inner
        self._sender = sender(inner, certificates)
        self._explicit = explicit_buckets
        self._scale = collector.config.scale
        self._failure: Failure | None = None  # of the current export
        self._timeout_s = _LEAST_TIMEOUT_S  # of the latest export
        self._writer = Writer(self.producer)
        self._forward_sdk = forward_sdk
        self._on_result = on_result
        self._first = 0
        self._told_ns = 0  # when the reading was taken with which the SDK's metrics arrived last
        self._undelivered = Undelivered()
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
        self._timeout_s = min(max(timeout_millis / 1e3, _LEAST_TIMEOUT_S), _LONGEST_S)
        deadline = began + self._timeout_s
        with self._lock:
            self._failure = None
            if self._forward_sdk:
                metrics_data = MetricsData(self._undelivered.add_to(metrics_data.resource_metrics))
            try:
                self.producer.read()
            except Exception as error:
                # Whatever is wrong with us, the application's own metrics get through.
                _log.exception("cannot read the kernel's counts")
                self.failed += 1
                if self._forward_sdk and self._hand_over(metrics_data, timeout_millis):
                    self._undelivered.delivered()
                self._failure = Failure(f"cannot read the kernel's counts: {error}")
            else:
                # Nothing is sent while the receiver asks to wait.
                self._failure = self._sender.pause if self._sender else None
                if not self._failure:
                    self.failed += self._export_batches(metrics_data, deadline)
            self.export_seconds = time.monotonic() - began
            failure = self._failure
        if self._on_result:
            self._on_result(failure)
        return MetricExportResult.FAILURE if failure else MetricExportResult.SUCCESS

    @property
    def longest_s(self) -> float:
        """The time that an export takes at most, without its reading: the last request may begin when time is up."""
        return self._timeout_s + (self._sender.longest_s if self._sender else _LONGEST_S)

    def end_pause(self) -> None:
        """Sends the next export although the receiver asks to wait: it is the last one."""
        if self._sender:
            self._sender.end_pause()

    def _export_batches(self, metrics_data: MetricsData, deadline: float) -> int:
        """How many requests failed; what the deadline leaves no time for is one of them."""
        failed = 0
        first, self._first = self._first, 0
        for turn, batch in enumerate(self.producer.batches(first)):
            began = time.monotonic()
            if began > deadline:
                failed += 1
                self._failure = self._failure or Failure("no time was left for all requests of an export")
                self._first = first + turn
                break
            with_sdk = self._forward_sdk and turn == 0
            if self._deliver(metrics_data, batch, (deadline - began) * 1e3, with_sdk=with_sdk):
                self.producer.acknowledge(batch)
                if with_sdk:
                    self._undelivered.delivered()
                    self._told_ns = batch.reading.time_ns
                continue
            failed += 1
            if time.monotonic() - began > _AWAY_S or (self._sender and self._sender.pause):
                # The next export begins behind this request: none that is never taken keeps all others back.
                self._first = first + turn + 1
                break
        return failed

    def _deliver(self, metrics_data: MetricsData, batch: ExportBatch, timeout_millis: float, *, with_sdk: bool) -> bool:
        """Whether the receiver has the batch now."""
        theirs = metrics_data.resource_metrics
        if with_sdk:
            theirs = retimed(theirs, self._told_ns, batch.reading.time_ns)
        else:
            theirs = [ResourceMetrics(theirs[0].resource, [], theirs[0].schema_url)]
        if self._sender and not self._explicit:
            try:
                answer = self._sender.send(self._writer.request(theirs, batch))
            except Exception:
                # Another release of the exporter than we know, or a metric of the application's that nobody can encode.
                _log.exception("cannot send requests written by us: from now on the exporter writes its own")
                self._sender = None
            else:
                return self._take_note(answer)
        ours = self.producer.metrics(batch)
        if self._explicit:
            ours = explicit(ours, self._scale)
        first, *others = theirs
        merged = ResourceMetrics(first.resource, [*first.scope_metrics, ours], first.schema_url)
        return self._hand_over(MetricsData([merged, *others]), timeout_millis)

    def _hand_over(self, metrics_data: MetricsData, timeout_millis: float) -> bool:
        """Whether it got through; an exporter that raises (to a full disk) says no."""
        try:
            if self._sender:
                return self._take_note(self._sender.send(encoded(metrics_data)))
            result = self._inner.export(metrics_data, timeout_millis=timeout_millis)
        except Exception as error:
            self._failure = Failure(f"{type(self._inner).__name__}: {error}")
            return False
        if result is not MetricExportResult.SUCCESS:
            self._failure = self._failure or _UNKNOWN
        return result is MetricExportResult.SUCCESS

    def _take_note(self, answer: Answer) -> bool:
        """Whether the request got through. Counts points that the receiver rejected, and logs why, each cause once."""
        if answer.failure:
            self._failure = answer.failure
            return False
        self.rejected += answer.rejected
        if answer.message and self._messages.is_new(kind_of(answer.message)):
            _log.warning("the receiver rejects %d points: %s", answer.rejected, answer.message)
        return True

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Has the inner exporter deliver what it holds."""
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Shuts the inner exporter down. The reader has exported the last interval before it calls this."""
        self._inner.shutdown(timeout_millis=timeout_millis, **kwargs)
