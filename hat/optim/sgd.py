"""Stochastic gradient descent under the lock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

import hat_kernels
from hat.model import HATModel
from hat.optim.base import LockedOptimizer, Step, check_at_least_0, grads_of, new_state
from hat_kernels import Lock

OPTIONS = ("lr", "momentum", "dampening", "nesterov", "maximize")


class SGD(LockedOptimizer):
    """SGD whose updates are locked after momentum and weight decay, and which clamps the embeddings.

    The step of `torch.optim.SGD` with `W -= lr * rate * d`, see `hat_kernels.sgd_update_`. Embeddings do not decay.
    Works with `torch.amp.GradScaler`; momentum is kept in float32 at least.

    Args:
        params: `model.task_parameters()`, or any parameters or groups of one model if `model` is given.
        lr: learning rate, >= 0, a number or a 0-d tensor; the paper's is 0.05.
        momentum, dampening, weight_decay, nesterov, maximize: as of `torch.optim.SGD`.
        max_norm: clip the global norm of the locked gradients to this, > 0, or None; the paper's code has 10 000.
        model: whose locks count; by default the one that `params` comes from.

    Raises:
        ValueError: an option out of range, or parameters of no model.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.05,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        max_norm: float | None = None,
        model: HATModel | None = None,
    ) -> None:
        check_at_least_0(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("nesterov: expected momentum > 0 and dampening 0, got neither or one")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults, max_norm=max_norm, model=model)

    def _update_weights(
        self, parameters: list[Tensor], group: dict[str, Any], locks: list[Lock | None], step: Step
    ) -> None:
        lock = dict(zip(parameters, locks, strict=True))
        for batch, buffers, options in self._batches(parameters, group, step):
            own = [lock[p] for p in batch]
            hat_kernels.sgd_update_(batch, grads_of(batch), buffers, own, weight_decay=group["weight_decay"], **options)

    def _update_embeddings(self, parameters: list[Tensor], group: dict[str, Any], step: Step) -> None:
        limit = self._model.config.limit
        for batch, buffers, options in self._batches(parameters, group, step):
            hat_kernels.embedding_update_(batch, grads_of(batch), buffers, limit=limit, **options)

    def _batches(
        self, parameters: list[Tensor], group: dict[str, Any], step: Step
    ) -> Iterator[tuple[list[Tensor], list[Tensor], dict[str, Any]]]:
        """(parameters, buffers, options) a call: one, or where momentum is dampened another for its first step."""
        options = {name: group[name] for name in OPTIONS} | step.options()
        if not group["momentum"]:
            yield parameters, [], options
            return
        new = [p for p in parameters if "momentum_buffer" not in self.state[p]]
        for p in new:
            self.state[p]["momentum_buffer"] = new_state(p)
        # `v = g` is what momentum makes of a buffer of zeros, but for the dampening.
        first = {id(p) for p in new} if group["dampening"] else set()
        for is_first_step in (True, False):
            batch = [p for p in parameters if (id(p) in first) is is_first_step]
            if batch:
                buffers = [self.state[p]["momentum_buffer"] for p in batch]
                yield batch, buffers, {**options, "is_first_step": is_first_step}
