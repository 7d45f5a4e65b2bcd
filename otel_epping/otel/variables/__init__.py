# SPDX-License-Identifier: Apache-2.0
"""Parses and checks the standard OTEL_* variables before anything is built from them.

The SDK and its exporters read the same variables, each in its own way: one warns, one raises, one ignores a value.
So each variable is parsed here, by the rules of the specification; the exporters get values, not variables.
A wrong value is an error that names variable, value, cause and cure. All wrong variables are reported at once.

    environment.py  values: text, numbers, Booleans, one of a set; collects errors and warnings
    endpoint.py     endpoints of both protocols
    headers.py      headers and resource attributes
    certificates.py certificates and keys: checks the files, and notices when they are renewed
    otlp.py         the settings of an OTLP exporter
    standard.py     all variables that hold for a run

Specification: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""
