# SPDX-License-Identifier: Apache-2.0
"""Tests of otel_epping.top."""
