# SPDX-License-Identifier: Apache-2.0
"""The tests. Each folder of tests has the name of the package's folder that it tests. Run the tests from the
repository's root, by pytest or `make`."""
