# SPDX-License-Identifier: Apache-2.0
"""Named networks, and the files and databases that describe networks."""
