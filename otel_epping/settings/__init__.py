# SPDX-License-Identifier: Apache-2.0
"""Settings of the agent: flags, environment variables and a YAML file, all made from one class."""
