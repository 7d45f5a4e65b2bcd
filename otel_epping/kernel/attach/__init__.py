# SPDX-License-Identifier: Apache-2.0
"""Attaches the kernel program to interfaces, and keeps the program attached and first on the hooks."""
