# SPDX-License-Identifier: Apache-2.0
"""Names that opentelemetry-instrument reads from an instrumentation: its instrumented libraries and its signals."""

# The kernel's TCP/IP stack is measured, so no library has to be installed.
_instruments: tuple[str, ...] = ()

_supports_metrics = True
