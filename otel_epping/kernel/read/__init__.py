# SPDX-License-Identifier: Apache-2.0
"""Reads the kernel program's maps."""
