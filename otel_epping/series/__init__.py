# SPDX-License-Identifier: Apache-2.0
"""Turns the kernel's counts into time series, as arrays. Does not import OpenTelemetry."""
