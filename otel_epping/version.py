# SPDX-License-Identifier: Apache-2.0
"""The version of otel-epping.

The build and the instrumentation scope of the telemetry read the version from this file.
"""

__version__ = "0.1.0"
