# SPDX-License-Identifier: Apache-2.0
"""Functions of any daemon: logs, redaction of secrets, signals, limits, escaped text. Has no code about networks."""
