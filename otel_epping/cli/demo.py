# SPDX-License-Identifier: Apache-2.0
"""otel-epping demo: measures RTTs over links of known delay."""

import click

from otel_epping.errors import EppingError
from otel_epping.kernel.load import requirements
from otel_epping.settings.options import COMMAND


@click.command(context_settings=COMMAND)
def demo() -> None:
    """Measure RTTs over links of known delay, and print the metrics that a collector received.

    Creates hosts in network namespaces and traffic between the hosts, and runs the agent and a collector. The demo
    takes half a minute. The exit code is 1 if the measured RTTs do not agree with the delays.
    """
    requirements.check_kernel()
    requirements.check_privileges()
    from otel_epping.lab import demo as lab_demo  # this module needs the package rich

    if not lab_demo.run():
        raise EppingError("some RTTs do not agree with the delays: is the machine overloaded? Run the demo again")
