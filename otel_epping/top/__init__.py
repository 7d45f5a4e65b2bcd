# SPDX-License-Identifier: Apache-2.0
"""Shows networks and RTTs in a terminal: `otel-epping top`."""
