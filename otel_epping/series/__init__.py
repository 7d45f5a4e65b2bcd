# SPDX-License-Identifier: Apache-2.0
"""From the kernel's counts to time series, in arrays. Knows nothing of OpenTelemetry."""
