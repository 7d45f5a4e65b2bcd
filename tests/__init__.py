# SPDX-License-Identifier: Apache-2.0
"""The tests. A folder of tests has the same name as the tested folder of the package. Run the tests from the
repository's root, by pytest or `make`."""
