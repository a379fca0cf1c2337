"""End the process with one line, and no traceback, when Ctrl-C or SIGTERM stops it.

`hat/__init__.py` imports this module before anything else, because the other imports take seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from types import FrameType


@dataclass
class Stop:
    """What stopped a command.

    Attributes:
        number: of the signal that raised the KeyboardInterrupt.
    """

    number: int = signal.SIGINT

    @property
    def kind(self) -> str:
        """One word for a message."""
        return "interrupted" if self.number == signal.SIGINT else "terminated"

    @property
    def status(self) -> int:
        """The exit status that a shell reports for the signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


def is_command_line() -> bool:
    """Whether this process is `python -m hat` or the script `hat`."""
    program = PurePath(sys.argv[0] if sys.argv else "")
    if program.name == "-m":  # until Python has found the module; sys.orig_argv has the name of the module
        return sys.orig_argv[-len(sys.argv)] in ("hat", "-mhat")
    return program.stem == "hat" and program.suffix in ("", ".exe")


@contextlib.contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt inside the `with` block.

    A handler of another program stays, and so does a signal that is ignored. Outside the main thread this does nothing.

    Args:
        stop: is told which signal it was.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        stop.number = number
        interrupt = signal.getsignal(signal.SIGINT)  # which may wait until a change is complete
        (interrupt if callable(interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    handlers = {signal.SIGINT: (_quit, signal.default_int_handler), signal.SIGTERM: (signal.SIG_DFL, terminate)}
    changed = {number: before for number, (before, _) in handlers.items() if signal.getsignal(number) is before}
    for number in changed:
        signal.signal(number, handlers[number][1])
    try:
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)


def _quit(number: int, frame: FrameType | None) -> None:
    """End the process at once. While Python starts or ends there is nothing to save."""
    with contextlib.suppress(OSError):
        os.write(2, b"\n" * os.isatty(2) + b"hat: interrupted\n")
    os._exit(128 + number)


if is_command_line() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _quit)
