# SPDX-License-Identifier: Apache-2.0
"""Functions that any daemon needs: logs, redaction of secrets, signals, resource limits and escaped text.

This package contains no code about networks.
"""
