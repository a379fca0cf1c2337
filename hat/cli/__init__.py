"""The command line: `python -m hat train | compress | evaluate | export | report | data`."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. An error becomes one line on standard error, without a traceback.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit status: 0; 2 for an error; 130 for Ctrl-C and 143 for SIGTERM; 141 if the reader of standard output has
        closed it.

    Raises:
        SystemExit: with status 0 after `--help`; with status 2 if the arguments are not understood.
    """
    from hat.cli.command import run  # here, because `hat.cli.stopping` comes first, before the imports that take long

    return run(argv)
