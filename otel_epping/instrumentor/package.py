# SPDX-License-Identifier: Apache-2.0
"""Defines names that opentelemetry-instrument reads: the instrumented libraries and the supported signals."""

# The kernel's TCP/IP stack is measured, so no library has to be installed.
_instruments: tuple[str, ...] = ()

_supports_metrics = True
