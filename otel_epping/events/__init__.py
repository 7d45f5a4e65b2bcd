# SPDX-License-Identifier: Apache-2.0
"""Single RTTs and flow events, for `otel-epping watch` and `replay --events`."""
