# SPDX-License-Identifier: Apache-2.0
"""Runs the kernel program over captures."""
