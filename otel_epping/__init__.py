# SPDX-License-Identifier: Apache-2.0
"""Passive network latency for OpenTelemetry: round-trip times, counted per subnet in the kernel, exported over OTLP.

kernel       load the program, attach it, read its memory
histogram    arithmetic on exponential histograms
subnets      from the kernel's slots to named series
telemetry    every metric and attribute, named once
ledger       what is still to be told: all of it, or what was not acknowledged
points       from counts to the SDK's data points; explicit: for readers that know no exponential histograms
producer     the MetricProducer: from a reading to OpenTelemetry metrics
exporter     an exporter around an exporter, which acknowledges what was delivered
sdk          plugs the producer into the OpenTelemetry SDK
capture      packets out of capture files
replay       the program over captures; summary: a reading as a table
watch        each RTT and flow event as it happens; events: as lines of text
cli          otel-epping run | check | demo | watch | replay, each a module: agent, check, demo, watch, replay
lab          a small internet in network namespaces, for the demo and the tests
"""
