# SPDX-License-Identifier: Apache-2.0
"""Implements `otel-epping replay`: runs the kernel program on the packets of captures."""
