# SPDX-License-Identifier: Apache-2.0
"""Implements `otel-epping report`: one page about a measurement, as HTML, Markdown or JSON."""
