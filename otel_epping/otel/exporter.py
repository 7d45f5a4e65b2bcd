# SPDX-License-Identifier: Apache-2.0
"""Wraps a push exporter, and adds the collector's metrics to each export.

In the SDK, the exporter is the only public extension point that receives the result of an export. The counts of a
successful request are acknowledged. The counts of a failed request stay pending in the producer.

For an official OTLP exporter, the package otlp/ encodes the requests. The package otlp/ is 30 times as fast as the
encoder of the SDK. Any other exporter gets objects of the SDK.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    ResourceMetrics,
)

from otel_epping.kernel.collector import EppingCollector
from otel_epping.otel import private
from otel_epping.otel.explicit_buckets import to_explicit
from otel_epping.otel.export_batch import ExportBatch
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.first_export import FirstExport
from otel_epping.otel.otlp.answer import Answer
from otel_epping.otel.otlp.encoder import BatchEncoder
from otel_epping.otel.otlp.failure import Failure, Once, kind_of
from otel_epping.otel.otlp.request import count_points, encode_sdk_metrics
from otel_epping.otel.otlp.transport import sender
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.otel.sdk_deltas import UndeliveredDeltas
from otel_epping.otel.sdk_timestamps import move_timestamps
from otel_epping.otel.variables.certificates import Certificates

if TYPE_CHECKING:
    from otel_epping.otel.otlp.retries import RequestSender

_log = logging.getLogger(__name__)

# A request that fails within _UNAVAILABLE_S was rejected by the receiver, so the next request may succeed. If a request
# fails after a longer time, its retries have failed, too. Then the receiver is unavailable, and the next request would
# also fail.
_UNAVAILABLE_S = 1.0
_MIN_TIMEOUT_S = 30.0
# The timeout of an export is at most _MAX_TIMEOUT_S. If the exporter's timeout is not known, _MAX_TIMEOUT_S is also the
# assumed maximum duration of a request.
_MAX_TIMEOUT_S = 300.0
# A failure without a cause, because the exporter itself has logged the cause.
_UNKNOWN = Failure("")


def temporality_of(preferring: MetricExporter | MetricReader) -> AggregationTemporality:
    """Returns the temporality that an exporter or reader prefers for histograms.

    Our histograms and counters use this temporality.
    """
    preferred = private.preferred_temporality(preferring) or {}
    return preferred.get(Histogram, AggregationTemporality.CUMULATIVE)


class ProducerExporter(MetricExporter):
    """Exports a collector's metrics through `inner`, together with the SDK's own metrics if `forward_sdk` is set.

    Our histograms and counters all have the temporality that `inner` prefers for histograms. So the histogram and the
    counters of a subnet cover the same period of time.

    `failed` counts failed requests. `rejected` counts data points that the receiver rejected although the receiver
    accepted the rest of the request. Rejected points must not be resent (OTLP specification, "Partial Success").
    `settings` decide what is exported. After each export, `on_result` is called. Its argument is the failure of the
    export, or None after a success. With `explicit_buckets`, histograms are exported with explicit buckets.
    `name` is the exporter's name in the log; by default, the name of the class of `inner`.
    `certificates` are the files that `inner` uses for TLS. With `request_sender`, the encoded requests are passed to
    this sender, and not to `inner`.
    """

    def __init__(
        self,
        inner: MetricExporter,
        collector: EppingCollector,
        settings: ExportSettings | None = None,
        *,
        name: str | None = None,
        forward_sdk: bool = True,
        on_result: Callable[[Failure | None], None] | None = None,
        explicit_buckets: bool = False,
        certificates: Certificates | None = None,
        request_sender: "RequestSender | None" = None,
    ) -> None:
        super().__init__(private.preferred_temporality(inner), private.preferred_aggregation(inner))
        self.producer = EppingMetricProducer(collector, temporality_of(inner), settings)
        self.failed = 0
        self.rejected = 0
        self.export_seconds = 0.0  # duration of the latest export, including the reading of the maps
        self._messages = Once()  # the receiver's messages about rejected points
        self._inner = inner
        self._sender = request_sender or sender(inner, certificates)
        self._explicit = explicit_buckets
        self._scale = collector.config.scale
        self._failure: Failure | None = None  # the failure of the current export
        self._timeout_s = _MIN_TIMEOUT_S  # the timeout of the latest export
        self._encoder = BatchEncoder(collector.config)
        self._forward_sdk = forward_sdk
        self._on_result = on_result
        self._first = 0  # the next export starts with the batch that has this number
        self._sdk_sent_ns = 0  # time of the latest reading that was delivered together with the SDK's metrics
        self._first_export = FirstExport(name or type(inner).__name__)
        self._undelivered = UndeliveredDeltas()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Reads the kernel's counts, and exports these counts. Each request is well below the size limits of receivers.

        In a forked child, the SDK starts its readers again. But a forked child does not export the collector's metrics.
        """
        if os.getpid() != self._process:
            if self._forward_sdk:
                return self._inner.export(metrics_data, timeout_millis=timeout_millis)
            return MetricExportResult.SUCCESS
        # At shutdown, the SDK passes the export interval as the timeout of the last export. The interval may be too
        # short for an export, so the timeout is at least _MIN_TIMEOUT_S.
        started = time.monotonic()
        self._timeout_s = min(max(timeout_millis / 1e3, _MIN_TIMEOUT_S), _MAX_TIMEOUT_S)
        deadline = started + self._timeout_s
        with self._lock:
            self._failure = None
            self._first_export.begin()
            if self._forward_sdk:
                metrics_data = MetricsData(self._undelivered.add_to(metrics_data.resource_metrics))
            try:
                self.producer.read()
            except Exception as error:
                # The application's own metrics are exported even if our reading fails.
                _log.exception("cannot read the kernel's counts")
                self.failed += 1
                if self._forward_sdk and self._send_sdk_objects(metrics_data, timeout_millis):
                    self._undelivered.acknowledge()
                self._failure = Failure(f"cannot read the kernel's counts: {error}")
            else:
                # If the receiver has asked the exporter to wait, no request is sent before the end of the wait.
                self._failure = self._sender.pause if self._sender else None
                if not self._failure:
                    self.failed += self._export_batches(metrics_data, deadline)
            self.export_seconds = time.monotonic() - started
            failure = self._failure
            if not failure:
                self._first_export.succeed(self.producer.subnets_exported)
        if self._on_result:
            self._on_result(failure)
        return MetricExportResult.FAILURE if failure else MetricExportResult.SUCCESS

    @property
    def max_export_s(self) -> float:
        """Maximum duration of an export, without the time to read the maps.

        The last request may start just before the export's deadline, and then take the maximum duration of a request.
        """
        return self._timeout_s + (self._sender.max_send_s if self._sender else _MAX_TIMEOUT_S)

    def end_pause(self) -> None:
        """Ends a wait that the receiver asked for.

        Call end_pause() before the last export, so that the last requests are sent.
        """
        if self._sender:
            self._sender.end_pause()

    def _export_batches(self, metrics_data: MetricsData, deadline: float) -> int:
        """Sends the batches of the reading. Returns the number of failed requests.

        All requests that could not be sent before the deadline count as one failed request.
        """
        failed = 0
        first, self._first = self._first, 0
        for turn, batch in enumerate(self.producer.batches(first)):
            started = time.monotonic()
            if started > deadline:
                failed += 1
                self._failure = self._failure or Failure("the export timed out before all its requests were sent")
                self._first = first + turn
                break
            with_sdk = self._forward_sdk and turn == 0
            if self._deliver(metrics_data, batch, (deadline - started) * 1e3, with_sdk=with_sdk):
                self.producer.acknowledge(batch)
                if with_sdk:
                    self._undelivered.acknowledge()
                    self._sdk_sent_ns = batch.reading.time_ns
                continue
            failed += 1
            if time.monotonic() - started > _UNAVAILABLE_S or (self._sender and self._sender.pause):
                # The next export starts with the batch after the failed batch, so a batch that always fails does not
                # block other batches.
                self._first = first + turn + 1
                break
        return failed

    def _deliver(self, metrics_data: MetricsData, batch: ExportBatch, timeout_millis: float, *, with_sdk: bool) -> bool:
        """Sends a batch, with the SDK's metrics if `with_sdk` is set. Returns true if the request succeeded."""
        resources = metrics_data.resource_metrics
        if with_sdk:
            resources = move_timestamps(resources, self._sdk_sent_ns, batch.reading.time_ns)
        else:
            resources = [ResourceMetrics(resources[0].resource, [], resources[0].schema_url)]
        if self._sender and not self._explicit:
            try:
                request = self._encoder.request(resources, batch)
                answer = self._sender.send(request)
            except Exception:
                # Direct encoding may fail because a release of the exporter is untested, or because otlp/ cannot encode
                # a metric of the application.
                _log.exception("cannot send a directly encoded request; from now on, the exporter encodes all requests")
                self._sender = None
            else:
                self._first_export.add(request.points, request.body)
                return self._note(answer)
        ours = self.producer.metrics(batch)
        if self._explicit:
            ours = to_explicit(ours, self._scale)
        first, *others = resources
        merged = ResourceMetrics(first.resource, [*first.scope_metrics, ours], first.schema_url)
        self._first_export.add(count_points([merged, *others]))
        return self._send_sdk_objects(MetricsData([merged, *others]), timeout_millis)

    def _send_sdk_objects(self, metrics_data: MetricsData, timeout_millis: float) -> bool:
        """Exports objects of the SDK. Returns true if the export succeeded.

        An exception of the exporter, for example because a disk is full, is treated as a failure.
        """
        try:
            if self._sender:
                return self._note(self._sender.send(encode_sdk_metrics(metrics_data)))
            result = self._inner.export(metrics_data, timeout_millis=timeout_millis)
        except Exception as error:
            self._failure = Failure(f"{type(self._inner).__name__}: {error}")
            return False
        if result is not MetricExportResult.SUCCESS:
            self._failure = self._failure or _UNKNOWN
        return result is MetricExportResult.SUCCESS

    def _note(self, answer: Answer) -> bool:
        """Records the outcome of a request. Returns true if the request succeeded.

        Counts rejected points, and logs each reason for a rejection once.
        """
        if answer.failure:
            self._failure = answer.failure
            return False
        self.rejected += answer.rejected
        if answer.message and self._messages.is_new(kind_of(answer.message)):
            _log.warning("the receiver rejected %d data points: %s", answer.rejected, answer.message)
        return True

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Flushes the inner exporter."""
        return self._inner.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Shuts down the inner exporter. The reader exports the last interval before the reader calls shutdown()."""
        self._inner.shutdown(timeout_millis=timeout_millis, **kwargs)
