"""Detect changes that make a recorded step invalid: of the tensors that it reads, or of decisions taken in Python."""

from __future__ import annotations

import types
from collections.abc import Callable, Hashable, Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from hat.life.model import HATModel
from hat.optim.guard import locker_of
from hat_kernels.dispatch import chosen_backend


class Structure:
    """Tells whether a model and its optimizer have changed since the last call.

    Every step calls this, so it must be fast: it takes a fraction of a microsecond a tensor, and the time does not grow
    with the number of tasks.
    """

    def __init__(self, model: HATModel, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.model, self.optimizer = model, optimizer
        self._modules: list[nn.Module] = []
        self._heads = -1
        self._last: object = None

    def has_changed(self, options: object = None, *, rates: bool = True) -> bool:
        """Compare with the last call.

        Args:
            options: other values to compare.
            rates: whether a new learning rate counts as a change, if the rate is a number.
        """
        if self._heads != len(self.model.heads):  # the modules stay the same while a task is learned
            self._modules, self._heads = list(self.model.body.modules()), len(self.model.heads)
        facts = (options, *self._settings(), *self._of_model(), *self._of_optimizer(rates))
        changed, self._last = facts != self._last, facts
        return changed

    def _settings(self) -> Iterator[Hashable]:
        device = self.model.state.scale.device.type
        matmul = torch.backends.cuda.matmul
        yield chosen_backend()
        yield matmul.fp32_precision if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
        yield torch.is_autocast_enabled(device)
        yield torch.get_autocast_dtype(device)

    def _of_model(self) -> Iterator[Hashable]:
        yield self._heads
        yield self.model.training
        yield self.model.state.scale.data_ptr()
        for module in (*self._modules, *([self.model.heads[-1]] if self._heads else ())):
            yield module.training
            for parameter in module._parameters.values():
                if parameter is not None:
                    yield parameter.data_ptr()
                    yield parameter.requires_grad
            for buffer in module._buffers.values():
                if buffer is not None:
                    yield buffer.data_ptr()
        for gate in self.model.gates.values():
            yield from gate.identity()

    def _of_optimizer(self, rates: bool) -> Iterator[Any]:
        if self.optimizer is None:
            return
        yield locker_of(self.optimizer).max_norm
        for group in self.optimizer.param_groups:
            yield len(group["params"])
            for name, value in group.items():
                if isinstance(value, Tensor):
                    yield value.data_ptr() if value.device.type != "cpu" else value.item() if rates else None
                elif name != "params" and (rates or name != "lr"):
                    yield value
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, list):
                    yield from (part.data_ptr() for part in value if isinstance(part, Tensor))
                elif isinstance(value, Tensor):
                    yield value.data_ptr()


_numbers = count()


def own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a function with a new code object.

    `torch.compile` counts how often it has compiled a code object, and stops after eight times.
    """
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_numbers)}")
    return types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
