# SPDX-License-Identifier: Apache-2.0
"""Writes the generated documents; `make docs` runs these."""
