"""Run one command, from its words to its exit status."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence

from hat.cli.checks import check_values
from hat.cli.errors import one_line, warnings_in_one_line
from hat.cli.parser import make_parser
from hat.cli.stopping import Stop, is_command_line, stopped_by_signals
from hat.training.subnormals import flushed_subnormals

_ERROR = 2
_NO_READER = 141  # as if SIGPIPE had ended the process


def run(argv: Sequence[str] | None) -> int:
    """Run a command and return its exit status. See `hat.cli.main`."""
    _prepare_streams()
    arguments = make_parser().parse_args(argv)
    stop = Stop()
    try:
        with stopped_by_signals(stop), warnings_in_one_line(arguments):
            return _run(arguments)
    except KeyboardInterrupt:  # from here on, another Ctrl-C ends the process at once
        _settle_output()
        newline = "\n" if sys.stderr.isatty() else ""  # a terminal shows ^C in this line
        _say(f"{newline}hat {arguments.command}: {stop.kind}{_hint(arguments)}")
        return stop.status


def _run(arguments: argparse.Namespace) -> int:
    try:
        check_values(arguments)
        with flushed_subnormals():
            arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _settle_output()
        if hint := _hint(arguments):
            _say(f"hat {arguments.command}: the reader of standard output has closed it{hint}")
        return _NO_READER
    except Exception as error:
        _settle_output()
        if arguments.traceback:
            raise
        _say(f"hat {arguments.command}: error: {one_line(error, arguments)}")
        return _ERROR
    return 0


def _hint(arguments: argparse.Namespace) -> str:
    return f"; {arguments.hint()}" if hasattr(arguments, "hint") else ""


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads standard error
        print(line, file=sys.stderr, flush=True)


def _prepare_streams() -> None:
    """Open the output streams that the caller has closed, and let standard output take any name of a file."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if is_command_line():
        os.environ.pop("MPLBACKEND", None)  # pictures are files; a wrong name here would end a finished run
    if is_command_line() and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _settle_output() -> None:
    """Write what standard output holds. If that fails, discard it, because Python would try again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
