# SPDX-License-Identifier: Apache-2.0
"""The code that runs inside a machine, with the Python of the agent's virtual environment: `python -m tests.vm.guest`.

Each module in TESTS (see __main__.py) has a function that takes Results and writes one result for each check.
"""
