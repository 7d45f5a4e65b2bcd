# SPDX-License-Identifier: Apache-2.0
"""Sources of a history: each source converts measurements to slices."""
