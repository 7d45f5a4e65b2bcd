# SPDX-License-Identifier: Apache-2.0
"""How long tests wait for what will come: no test is faster for waiting less, and a machine may be busy."""

PATIENCE_S = 60.0
