# SPDX-License-Identifier: Apache-2.0
"""Helpers of the tests: they start agents, build packets and captures, and receive exports."""
