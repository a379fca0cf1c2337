"""Ctrl-C in the middle of an action."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from tests.soak.actions.base import ACTIONS, Action
from tests.soak.world import World

_PLACES = ("/hat/", "/hat_kernels/", "/torch/optim/")
_MOST_LINES = 20_000


class Interrupted(Action):
    """Another action, with Ctrl-C at a random line of the library or of an optimizer of torch."""

    def __init__(self, action: Action) -> None:
        self.action, self.weight = action, action.weight / 4
        self.refusals = action.refusals  # type: ignore[misc]
        ACTIONS[f"stop-{action.name}"] = self

    def possible(self, world: World) -> bool:
        return self.action.possible(world)

    def perform(self, world: World, rng: random.Random) -> None:
        lines = int(_MOST_LINES ** rng.random())
        with contextlib.suppress(KeyboardInterrupt), ctrl_c_after(lines):
            self.action.perform(world, rng)


@contextlib.contextmanager
def ctrl_c_after(lines: int) -> Iterator[None]:
    """Press Ctrl-C when so many lines of `_PLACES` have run inside the block; do nothing if fewer run."""
    left = lines

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if not any(place in frame.f_code.co_filename for place in _PLACES):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return count

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    tracing = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(tracing)
        signal.signal(signal.SIGINT, before)
