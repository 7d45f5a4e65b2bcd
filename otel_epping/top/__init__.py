# SPDX-License-Identifier: Apache-2.0
"""Shows networks and their round-trip times in a terminal: `otel-epping top`."""
