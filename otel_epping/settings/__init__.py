# SPDX-License-Identifier: Apache-2.0
"""Settings of the agent. One class defines the flags, the environment variables and the keys of the YAML file."""
