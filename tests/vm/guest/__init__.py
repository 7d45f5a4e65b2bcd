# SPDX-License-Identifier: Apache-2.0
"""What runs inside a machine, by the Python of the agent's virtual environment: `python -m tests.vm.guest`.

Each module of TESTS (in __main__.py) has a function that takes Results and tells one result for each thing it tried.
"""
