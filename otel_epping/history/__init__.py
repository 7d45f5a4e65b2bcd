# SPDX-License-Identifier: Apache-2.0
"""Counts of networks over time, from any source, and the statistics that `top` and `report` show."""
