# SPDX-License-Identifier: Apache-2.0
"""What opentelemetry-instrument asks of an instrumentation: the libraries that it instruments, and its signals."""

# The kernel's TCP/IP stack is measured: no library has to be installed.
_instruments: tuple[str, ...] = ()

_supports_metrics = True
