# SPDX-License-Identifier: Apache-2.0
"""Tests that run the commands as a user runs them."""
