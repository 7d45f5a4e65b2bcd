# SPDX-License-Identifier: Apache-2.0
"""Tests against the official Collector and Prometheus, which are built with Go: `make integration`."""
