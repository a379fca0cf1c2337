"""What a recorded or compiled step takes for granted: which tensors it meets, and what was decided in Python."""

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
    """Of a model and its optimizer: whether it is what it was when somebody asked last.

    A step asks, so it costs a fraction of a microsecond a tensor; it does not grow with the number of tasks.
    """

    def __init__(self, model: HATModel, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.model, self.optimizer = model, optimizer
        self._modules: list[nn.Module] = []
        self._heads = -1
        self._last: object = None

    def has_changed(self, rest: object = None, *, rates: bool = True) -> bool:
        """Compare with the last call.

        Args:
            rest: what else counts.
            rates: count learning rates that are numbers.
        """
        if self._heads != len(self.model.heads):  # modules do not come and go while a task is learned
            self._modules, self._heads = list(self.model.body.modules()), len(self.model.heads)
        now = (rest, *self._settings(), *self._of_model(), *self._of_optimizer(rates))
        changed, self._last = now != self._last, now
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
        for module in (*self._modules, *self.model.heads[-1:]):
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
    """A function with code of its own: `torch.compile` counts what it has compiled by code, and stops at eight."""
    assert isinstance(function, types.FunctionType)
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_numbers)}")
    return types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
