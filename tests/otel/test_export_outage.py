# SPDX-License-Identifier: Apache-2.0
"""Stops and starts the collector of running agents. The agents log the outage once, and lose no count."""

import re
import time
from collections.abc import Callable
from itertools import pairwise

from otel_epping.lab.collectors import collector
from otel_epping.lab.otlp_sink import Sink
from otel_epping.lab.topology import Lab
from otel_epping.otel import metric_table
from tests.support.arrivals import DELTA, arrived, check_same_tcp_packets, check_truth, settle
from tests.support.lab_agent import Agent, eventually, talking
from tests.support.patience import PATIENCE_S


def in_a_pause(sink: Sink, interval_s: float) -> None:
    """Wait until the collector has forwarded all requests and no export is due soon.

    If the collector stops after this function has returned, no request is lost.
    """
    count = len(sink.received)
    eventually(lambda: len(sink.received) > count, PATIENCE_S, "the collector forwards an export")
    time.sleep(0.35 * interval_s)


def test_no_counts_are_lost_while_the_collector_is_stopped(lab: Lab, agents: Callable[..., Agent]) -> None:
    """A stopped collector refuses connections, and a running collector responds to every request.

    So the agent knows which requests were received, and the sums of the deltas are exact.
    """
    interval_s = 1.0
    fast = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with (
        Sink(namespace=lab.router) as sink_c,
        Sink(namespace=lab.router) as sink_d,
    ):
        sinks = {"cumulative": sink_c, "delta": sink_d}
        forwarders = {name: collector(sink, namespace=lab.router) for name, sink in sinks.items()}
        for forwarder in forwarders.values():
            forwarder.__enter__()
        try:
            started = {
                name: agents(
                    f"away-{name}",
                    forwarders[name].grpc_endpoint,
                    f"{interval_s}s",
                    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=name,
                    **fast,
                )
                for name in sinks
            }
            for agent in started.values():
                agent.watching()
            with talking(lab):
                for name, forwarder in forwarders.items():
                    in_a_pause(sinks[name], interval_s)
                    forwarder.__exit__()
                for agent in started.values():
                    eventually(lambda a=agent: "export failed" in a.log, PATIENCE_S, "the log says so")  # type: ignore[misc]
                time.sleep(2 * interval_s)  # at least two exports fail
                before = {name: len(sink.received) for name, sink in sinks.items()}
                for forwarder in forwarders.values():
                    forwarder.__enter__()
                for name, agent in started.items():
                    eventually(lambda a=agent: "succeed again" in a.log, PATIENCE_S, "the log says so")  # type: ignore[misc]
                    assert before[name] > 0
            for agent in started.values():
                assert agent.stop() == 0, agent.log
            for sink in sinks.values():
                settle(sink)
        finally:
            for forwarder in forwarders.values():
                forwarder.__exit__()
    ends = {name: arrived(sink, f"away-{name}") for name, sink in sinks.items()}
    for name, one in ends.items():
        log = started[name].log
        assert log.count("export failed") == 1, log
        assert log.count("succeed again") == 1, log
        failures = re.search(r"after (\d+) failed", log)
        assert failures
        assert int(failures[1]) >= 2
        check_truth(one)
    check_same_tcp_packets(list(ends.values()))
    for one in ends.values():
        for series in one.series(metric_table.RTT.name).values():
            times = [(point.point.start_time_unix_nano, point.point.time_unix_nano) for point in series]
            if series[0].temporality == DELTA:
                assert all(end <= start for (_, end), (start, _) in pairwise(times))
            else:
                counts = [point.point.count for point in series]
                assert counts == sorted(counts)
