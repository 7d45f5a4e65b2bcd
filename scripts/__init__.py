# SPDX-License-Identifier: Apache-2.0
"""Scripts that write the generated documents. `make docs` runs these scripts."""
