"""Delaying Ctrl-C until a change is complete."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def interrupt_waits() -> Iterator[None]:
    """Delay a first Ctrl-C inside the `with` block until the end of the block; a second Ctrl-C interrupts at once.

    Outside the main thread this does nothing, because Python delivers Ctrl-C to the main thread only.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed inside the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
    if pressed:
        raise KeyboardInterrupt
