# SPDX-License-Identifier: Apache-2.0
"""Reads interfaces, routes, qdiscs and filters from the kernel by rtnetlink(7)."""
