# SPDX-License-Identifier: Apache-2.0
"""Measures round-trip times per subnet passively in the kernel, and exports histograms over OTLP.

The public API consists of the names in `__all__`; docs/api.md documents them. A name is imported when it is first used,
so `import otel_epping` alone loads neither numpy nor the OpenTelemetry SDK.

    from otel_epping import EppingCollector, EppingConfig, install

    with EppingCollector(EppingConfig(prefix_v4=24)) as collector:
        reader = install(provider, exporter, collector)
        collector.attach("eth0")
        ...
        reader.shutdown()

An application that is instrumented with OpenTelemetry uses `otel_epping.instrumentor.EppingInstrumentor` instead of
`install`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from otel_epping.version import __version__

if TYPE_CHECKING:
    from otel_epping.errors import EppingError
    from otel_epping.kernel.collector import EppingCollector
    from otel_epping.kernel.config import EppingConfig
    from otel_epping.networks.databases import Databases
    from otel_epping.networks.files import read as read_networks
    from otel_epping.networks.network import Networks
    from otel_epping.otel.export_settings import ExportSettings
    from otel_epping.otel.install import attach, install
    from otel_epping.otel.metric_selection import MetricSelection
    from otel_epping.otel.producer import EppingMetricProducer
    from otel_epping.series.grouping import Grouping
    from otel_epping.series.limits import Limits

__all__ = [
    "Databases",
    "EppingCollector",
    "EppingConfig",
    "EppingError",
    "EppingMetricProducer",
    "ExportSettings",
    "Grouping",
    "Limits",
    "MetricSelection",
    "Networks",
    "__version__",
    "attach",
    "install",
    "read_networks",
]

# Public name -> the module that defines it. The name in the module is the same, except for the names in _NAMES.
_MODULES = {
    "Databases": "otel_epping.networks.databases",
    "EppingCollector": "otel_epping.kernel.collector",
    "EppingConfig": "otel_epping.kernel.config",
    "EppingError": "otel_epping.errors",
    "EppingMetricProducer": "otel_epping.otel.producer",
    "ExportSettings": "otel_epping.otel.export_settings",
    "Grouping": "otel_epping.series.grouping",
    "Limits": "otel_epping.series.limits",
    "MetricSelection": "otel_epping.otel.metric_selection",
    "Networks": "otel_epping.networks.network",
    "attach": "otel_epping.otel.install",
    "install": "otel_epping.otel.install",
    "read_networks": "otel_epping.networks.files",
}
_NAMES = {"read_networks": "read"}


def __getattr__(name: str) -> Any:
    """Imports a public name from its module (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), _NAMES.get(name, name))
    return value


def __dir__() -> list[str]:
    """Returns the names of the module, including public names that are not imported yet."""
    return sorted({*globals(), *__all__})
