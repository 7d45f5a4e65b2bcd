# SPDX-License-Identifier: Apache-2.0
"""Compiles and loads the kernel program, and then drops the capabilities that loading needs."""
