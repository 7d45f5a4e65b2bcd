# SPDX-License-Identifier: Apache-2.0
"""Runs the kernel program over the packets of captures: `otel-epping replay`."""
