# SPDX-License-Identifier: Apache-2.0
"""The process behind `otel-epping run`."""
