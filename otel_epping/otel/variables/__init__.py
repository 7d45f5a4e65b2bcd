# SPDX-License-Identifier: Apache-2.0
"""Parses and checks the standard OTEL_* variables before anything is built from them.

The SDK and its exporters read the same variables, but treat an invalid value differently: one warns, one raises, one
ignores the value. So each variable is parsed here by the rules of the specification, and exporters get parsed values.
The error for an invalid variable names the variable, its value, the cause and the cure. All invalid variables are
reported together.

    environment.py   parses text, numbers, Booleans and enumerations; collects errors and warnings
    endpoint.py      parses endpoints of both protocols
    headers.py       parses headers and checks resource attributes
    certificates.py  checks the files of certificates and keys, and detects changes
    otlp.py          reads the settings of an OTLP exporter
    standard.py      reads all variables of a run

Specification: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""
