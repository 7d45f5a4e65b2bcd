# SPDX-License-Identifier: Apache-2.0
"""Settings: flags, environment variables and a file, from one table."""
