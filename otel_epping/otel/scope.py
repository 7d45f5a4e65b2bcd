# SPDX-License-Identifier: Apache-2.0
"""The instrumentation scope of our metrics. Among the modules that define metrics, only this module imports the SDK.

The settings need the tables (metric_table.py), but the import of the SDK would delay each start of the command.
"""

from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_epping.otel.semconv import SCHEMA_URL
from otel_epping.version import __version__

SCOPE = InstrumentationScope("otel_epping", __version__, SCHEMA_URL)
