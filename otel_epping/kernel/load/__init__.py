# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernel program, loads it, and drops the capabilities that this needs."""
