# SPDX-License-Identifier: Apache-2.0
"""What any daemon needs: logs, redaction of secrets, signals, limits. Knows nothing of networks."""
