"""Ctrl-C in the middle of an action."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch

from hat.optim.guard import locker_of
from tests.soak.actions.base import ACTIONS, Action
from tests.soak.world import World

_PLACES = ("/hat/", "/hat_kernels/", "/torch/optim/")
_MOST_CALLS = 10_000


class Interrupted(Action):
    """Another action, with Ctrl-C at a random call in the library or in an optimizer of torch."""

    def __init__(self, action: Action) -> None:
        self.action, self.weight = action, action.weight / 4
        self.refusals = action.refusals  # type: ignore[misc]
        ACTIONS[f"stop-{action.name}"] = self

    def possible(self, world: World) -> bool:
        return self.action.possible(world)

    def perform(self, world: World, rng: random.Random) -> None:
        calls = int(_MOST_CALLS ** rng.random())
        with contextlib.suppress(KeyboardInterrupt), ctrl_c_after(calls):
            self.action.perform(world, rng)
        if isinstance(world.optimizer, torch.optim.LBFGS) and locker_of(world.optimizer) is None:
            world.optimizer = None  # Ctrl-C leaves torch's own LBFGS with half a step, and it cannot make another one


@contextlib.contextmanager
def ctrl_c_after(calls: int) -> Iterator[None]:
    """Press Ctrl-C after so many calls in `_PLACES` inside the block; do nothing if there are fewer.

    Python looks for signals when a function of Python starts, and when a function of C has returned. Ctrl-C comes at
    such a place, as a real one does: not between the end of a `with` block and its `__exit__`.
    """
    left = calls

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        if event in ("call", "c_return") and any(place in frame.f_code.co_filename for place in _PLACES):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGINT, before)
