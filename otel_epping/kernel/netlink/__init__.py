# SPDX-License-Identifier: Apache-2.0
"""Asks the kernel over rtnetlink(7): interfaces, routes, qdiscs and filters."""
