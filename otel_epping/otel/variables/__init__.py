# SPDX-License-Identifier: Apache-2.0
"""Parses and checks the standard OTEL_* variables before exporters are built.

The SDK and its exporters read the same variables, but handle invalid values differently: some of these packages log a
warning, some raise an exception, and some ignore the value. So this package parses each variable by the rules of the
specification, and passes the parsed values to exporters. The error for an invalid variable contains the variable's name
and value, the cause and the cure. Secret values are not shown in errors. All invalid variables are reported together.

    environment.py   parses text, numbers, Booleans and enumerations; collects errors and warnings
    endpoint.py      parses endpoints of both protocols
    headers.py       parses headers and checks resource attributes
    certificates.py  checks the files of certificates and keys, and detects changes
    otlp.py          reads the settings of an OTLP exporter
    standard.py      reads all standard variables

Specification: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""
