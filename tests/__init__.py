# SPDX-License-Identifier: Apache-2.0
"""The tests, in folders that mirror those of the package. Run them from the repository's root, by pytest or `make`."""
