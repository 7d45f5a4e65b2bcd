# SPDX-License-Identifier: Apache-2.0
"""Prints docs/settings.md: `python -m otel_epping.settings`."""

from otel_epping.settings.documents import markdown

print(markdown(), end="")
