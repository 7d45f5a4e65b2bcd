# SPDX-License-Identifier: Apache-2.0
"""A small application that knows nothing of otel-epping, and exports the round-trip times of its network all the same:

    pip install 'otel-epping[instrument]'
    sudo OTEL_SERVICE_NAME=shop OTEL_EPPING_INTERFACE=eth0 opentelemetry-instrument python instrumented.py

Its own counter and the RTTs of the interface leave through the same exporter, with the same resource. Without
privileges it runs as well: without RTTs, and with one warning.
"""

import time
import urllib.error
import urllib.request

from opentelemetry import metrics

requests = metrics.get_meter("shop").create_counter("shop.requests", unit="{request}")


def main() -> None:
    """Asks a web server every second."""
    while True:
        try:
            urllib.request.urlopen("https://opentelemetry.io", timeout=5).close()
            outcome = "answered"
        except urllib.error.URLError:
            outcome = "failed"
        requests.add(1, {"outcome": outcome})
        time.sleep(1)


if __name__ == "__main__":
    main()
