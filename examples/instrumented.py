# SPDX-License-Identifier: Apache-2.0
"""An application that exports the round-trip times (RTTs) of its network.

The application contains no code for otel-epping. To run it, install the extra `instrument`:

    pip install 'otel-epping[instrument]'
    sudo OTEL_SERVICE_NAME=shop OTEL_EPPING_INTERFACE=eth0 opentelemetry-instrument python instrumented.py

One exporter exports the application's counter and the RTTs of the interface. The counter and the RTTs have the same
resource. If the process lacks the required privileges, the application runs, exports no RTTs and logs one warning.
"""

import time
import urllib.error
import urllib.request

from opentelemetry import metrics

requests = metrics.get_meter("shop").create_counter("shop.requests", unit="{request}")


def main() -> None:
    """Sends a request to a web server every second."""
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
