# SPDX-License-Identifier: Apache-2.0
"""Turns the kernel's counts into time series, in the form of arrays. Does not import OpenTelemetry."""
