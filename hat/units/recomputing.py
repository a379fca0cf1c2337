"""What holds for the length of a forward pass holds again when a gradient recomputes a part of the pass.

`torch.utils.checkpoint` keeps the inputs of a part of a network instead of its activations, and runs the part again in
the backward pass. By then the forward pass is over, and another task may be learned. So every checkpoint takes along
what is open in its thread, and opens it again around the recomputation.

Example: `model(x, task=0)` opens a pass that answers for task 0, and the body calls `checkpoint(layer, h)`. In the
backward pass, `layer` runs inside of a pass that answers for task 0 again, so it takes the mask of task 0.

PyTorch has no hook for this. So the classes that hold a checkpoint, one of each variant (`use_reentrant`), are extended
when this module is loaded. A checkpoint outside of a pass of this library stays as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import wraps
from typing import Any, Protocol

from torch.utils import checkpoint


class Reopens(Protocol):
    """A context manager that holds for the length of a forward pass."""

    def again(self) -> AbstractContextManager[Any]:
        """The same for what a checkpoint that is made now recomputes. It may be entered several times in turn."""


class _Entered(threading.local):
    """The context managers that are open in one thread, the outermost first."""

    def __init__(self) -> None:  # runs once in every thread
        self.contexts: list[Reopens] = []


ENTERED = _Entered()
"""What is open in the present thread. A context manager appends itself when it is entered, and goes when it is left."""


def _taking_along(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, which opens again what is open now, unless it is open still."""
    contexts = tuple(ENTERED.contexts)
    if not contexts:
        return run
    reopened = [context.again() for context in contexts]

    @wraps(run)
    def run_again(*args: Any, **kwargs: Any) -> Any:
        if tuple(ENTERED.contexts[: len(contexts)]) == contexts:  # this is the forward pass
            return run(*args, **kwargs)
        with ExitStack() as stack:
            for context in reopened:
                stack.enter_context(context)
            return run(*args, **kwargs)

    return run_again


def _extend(holder: Any, name: str) -> None:
    """Let `holder.name(self or ctx, function, ...)` take along what is open with the function."""
    method: Callable[..., Any] = getattr(holder, name)

    @wraps(method)
    def extended(first: Any, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return method(first, _taking_along(run), *args, **kwargs)

    setattr(holder, name, staticmethod(extended) if isinstance(vars(holder)[name], staticmethod) else extended)


_extend(checkpoint.CheckpointFunction, "forward")  # use_reentrant=True
_extend(checkpoint._CheckpointFrame, "__init__")  # use_reentrant=False
