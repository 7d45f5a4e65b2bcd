# SPDX-License-Identifier: Apache-2.0
"""The tests, in the same folders as what they test. Run them from the repository's root, by pytest or `make`."""
