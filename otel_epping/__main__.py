# SPDX-License-Identifier: Apache-2.0
"""`python -m otel_epping` is `otel-epping`."""

from otel_epping.cli import main

main()
