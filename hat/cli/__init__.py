"""The command line: `python -m hat train | compress | evaluate | export | report | data`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hat.cli.parser import make_parser
from hat.network.verdict import ForgettingError
from hat.training.subnormals import flushed_subnormals

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. An error becomes one line on standard error, without a traceback.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit status: 0, 2 for an error, 130 for Ctrl-C.
    """
    arguments = make_parser().parse_args(argv)
    try:
        with flushed_subnormals():
            arguments.run(arguments)
    except KeyboardInterrupt:
        hint = getattr(arguments, "hint", None)
        print(f"\ninterrupted{f'; {hint()}' if hint else ''}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if arguments.traceback:
            raise
        print(f"hat {arguments.command}: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_ERROR
    return 0


def _one_line(error: Exception) -> str:
    """An error in one line. For an unexpected error, the line also has the class and says how to see more."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:1000]
    if text and isinstance(error, (ValueError, OSError, ImportError, ArithmeticError, ForgettingError)):
        return text
    return f"{type(error).__name__}: {text} (--traceback shows where in the code it was raised)"
