# SPDX-License-Identifier: Apache-2.0
"""Measures what an export costs, for `otel-epping cost`: data points, series and bytes."""
