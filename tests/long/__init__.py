# SPDX-License-Identifier: Apache-2.0
"""Runs that take long: soak, pressure and fuzzing. `make test` has short ones."""
