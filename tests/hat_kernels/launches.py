"""Counting kernel launches."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock


@contextlib.contextmanager
def count_launches() -> Iterator[Counter[str]]:
    """The number of launches inside the block for each kernel, by name; `.total()` is the number of all launches.

    Compiled and interpreted kernels are counted, kernels of PyTorch are not.
    """
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        for kind in (JITFunction, InterpretedFunction):
            stack.enter_context(mock.patch.object(kind, "run", _counting(kind.run, counts)))
        yield counts


def _counting(run: Callable[..., Any], counts: Counter[str]) -> Callable[..., Any]:
    def counted(self: Any, *args: Any, **options: Any) -> Any:
        if not options.get("warmup"):
            counts[self.__name__] += 1
        return run(self, *args, **options)

    return counted
