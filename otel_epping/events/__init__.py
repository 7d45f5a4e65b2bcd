# SPDX-License-Identifier: Apache-2.0
"""Reads and prints individual RTTs and flow events, for `otel-epping watch` and `replay --events`."""
