# SPDX-License-Identifier: Apache-2.0
"""The command line, a file for each command: otel-epping run | check | config | demo | watch | replay."""

import errno
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click

# OpenBLAS starts idle threads when numpy is imported: before capabilities are dropped, so they would keep theirs.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from otel_epping.cli.check import check
from otel_epping.cli.config import config
from otel_epping.cli.demo import demo
from otel_epping.cli.replay import replay
from otel_epping.cli.run import run
from otel_epping.cli.watch import watch
from otel_epping.errors import EppingError
from otel_epping.kernel.load import requirements
from otel_epping.process import logs, redaction
from otel_epping.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="otel-epping")
def cli() -> None:
    """Passive network latency for OpenTelemetry.

    Counts round-trip times per subnet in the kernel and exports them over OTLP as exponential histograms. Each option
    can be set by a variable, --max-subnets by OTEL_EPPING_MAX_SUBNETS, or in a YAML file, --config. Where metrics go,
    the standard OTEL_* variables say: OTEL_EXPORTER_OTLP_ENDPOINT, _PROTOCOL, _HEADERS...
    """


# Of a disk that is full or broken, and a limit on the size of files.
_OF_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF)

for _command in (run, check, config, demo, watch, replay):
    cli.add_command(_command)


def main() -> None:
    """Runs the command line. A user's mistake ends in one line and exit code 1, or 2 if it is in the arguments."""
    redaction.install()
    try:
        try:
            cli(standalone_mode=True)
        except SystemExit:
            sys.stdout.flush()
            raise
    except EppingError as error:
        _fail(logs.last_words(redaction.redact(str(error)), redaction.redact(error.detail)))
    except RuntimeError as error:
        if str(error) != "can't start new thread":
            raise
        _fail(logs.last_words(f"cannot start a thread: {requirements.SHORTAGES[errno.EAGAIN]}"))
    except BrokenPipeError:  # nobody reads standard output any more
        _fail("")
    except OSError as error:
        _fail(logs.last_words(_explain(error)))


def _explain(error: OSError) -> str:
    """The line for an OSError that no other code handles: where it was raised, and the cure if one is known."""
    what = error.strerror or str(error)
    if error.errno in _OF_OUTPUT:
        return f"cannot write standard output ({what})"
    call = traceback.extract_tb(error.__traceback__)[-1]
    file = error.filename or f"{Path(call.filename).name}:{call.lineno} {call.name}"
    cure = requirements.SHORTAGES.get(error.errno or 0)
    return f"{file}: {what}" + (f": {cure}" if cure else "")


def _fail(words: str) -> NoReturn:
    """Ends with exit code 1 and these words on standard error, even if standard output and error are full disks."""
    try:
        sys.stdout.flush()
    except OSError:
        # What could not be written stays in the buffer. Python would try again at exit, with exit code 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if words:
        with suppress(OSError):
            click.echo(words, err=True)
    sys.exit(1)
