# SPDX-License-Identifier: Apache-2.0
"""Attaches the kernel program to interfaces, and keeps it attached and first on the hooks of the interfaces."""
