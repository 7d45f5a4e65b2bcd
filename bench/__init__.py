# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each prints a table beside its baseline, both of one run. Figures are in docs/performance.md."""
