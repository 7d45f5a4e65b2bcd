# SPDX-License-Identifier: Apache-2.0
"""The command line, one module per command.

otel-epping run | check | config | cost | demo | replay | report | top | watch.
"""

import errno
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click

# By default, OpenBLAS starts threads when numpy is imported. The agent drops the capabilities of its own threads later,
# but the threads of OpenBLAS would keep their capabilities.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from otel_epping.cli.check import check
from otel_epping.cli.config import config
from otel_epping.cli.cost import cost
from otel_epping.cli.demo import demo
from otel_epping.cli.replay import replay
from otel_epping.cli.report import report
from otel_epping.cli.run import run
from otel_epping.cli.top import top
from otel_epping.cli.watch import watch
from otel_epping.errors import EppingError
from otel_epping.kernel.load import requirements
from otel_epping.process import logs, redaction
from otel_epping.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="otel-epping")
def cli() -> None:
    """Passive network latency for OpenTelemetry.

    Counts round-trip times (RTTs) per subnet in the kernel, and exports them over OTLP as exponential histograms.

    Each option can also be set by an environment variable (--max-subnets by OTEL_EPPING_MAX_SUBNETS), or in a YAML
    file (--config).
    The standard OTEL_* variables set the destination and the protocol, for example OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_PROTOCOL and OTEL_EXPORTER_OTLP_HEADERS.
    """


# A write fails with an error in _OUTPUT_ERRORS if the disk is full or broken, the file has reached a size limit, or the
# descriptor is closed.
_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF)

for _command in (run, check, config, cost, demo, report, top, watch, replay):
    cli.add_command(_command)


def main() -> None:
    """Runs the command line.

    Reports an error in one line. The exit code is 1 for an error, or 2 for a wrong argument.
    """
    redaction.install()
    try:
        try:
            cli(standalone_mode=True)
        except SystemExit:
            sys.stdout.flush()
            raise
    except EppingError as error:
        _fail(logs.exit_message(redaction.redact(str(error)), redaction.redact(error.detail)))
    except RuntimeError as error:
        if str(error) != "can't start new thread":
            raise
        _fail(logs.exit_message(f"cannot start a thread: {requirements.SHORTAGES[errno.EAGAIN]}"))
    except BrokenPipeError:  # the program that reads standard output has closed the pipe
        _fail("")
    except OSError as error:
        _fail(logs.exit_message(_explain(error)))


def _explain(error: OSError) -> str:
    """Returns the message for an OSError that no other code handles.

    The message contains the file or the line of code where the error occurred, the cause, and the cure if it is known.
    """
    cause = error.strerror or str(error)
    if error.errno in _OUTPUT_ERRORS:
        return f"cannot write standard output ({cause})"
    call = traceback.extract_tb(error.__traceback__)[-1]
    file = error.filename or f"{Path(call.filename).name}:{call.lineno} {call.name}"
    cure = requirements.SHORTAGES.get(error.errno or 0)
    return f"{file}: {cause}" + (f": {cure}" if cure else "")


def _fail(message: str) -> NoReturn:
    """Writes the message to standard error and ends the process with exit code 1, even if the disk is full."""
    try:
        sys.stdout.flush()
    except OSError:
        # The unwritten data stay in the buffer. At exit, Python would try to write the data in the buffer again, fail,
        # and set exit code 120. So standard output is replaced by /dev/null before the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if message:
        with suppress(OSError):
            click.echo(message, err=True)
    sys.exit(1)
