# SPDX-License-Identifier: Apache-2.0
"""The version of otel-epping, written once: the build and the telemetry's scope both read it here."""

__version__ = "0.1.0"
