# SPDX-License-Identifier: Apache-2.0
"""Long runs: soak, pressure and fuzzing. `make test` runs short versions of these tests."""
