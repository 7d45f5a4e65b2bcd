# SPDX-License-Identifier: Apache-2.0
"""The process that `otel-epping run` starts: the agent."""
