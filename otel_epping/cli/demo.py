# SPDX-License-Identifier: Apache-2.0
"""otel-epping demo: see it work."""

import click

from otel_epping.errors import EppingError
from otel_epping.kernel.load import requirements
from otel_epping.settings.options import COMMAND


@click.command(context_settings=COMMAND)
def demo() -> None:
    """See it work: a small internet with known delays, a real collector, and what it received. Takes half a minute."""
    requirements.check_kernel()
    requirements.check_privileges()
    from otel_epping.lab import demo as demonstration  # needs rich

    if not demonstration.run():
        raise EppingError("not all round-trip times are the true ones: is the machine overloaded? Run it again")
