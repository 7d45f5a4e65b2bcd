# SPDX-License-Identifier: Apache-2.0
"""The agent, which is the process that `otel-epping run` starts."""
