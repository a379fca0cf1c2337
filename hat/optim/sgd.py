"""Stochastic gradient descent under the lock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

import hat_kernels
from hat.model import HATModel
from hat.optim.base import LockedOptimizer, Piece, Step, check_at_least_0

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

    def _update_weights(self, pieces: list[Piece], group: dict[str, Any], step: Step) -> None:
        for batch, buffers, options in self._batches(pieces, group, step):
            values, grads, locks = [p.value for p in batch], [p.grad for p in batch], [p.lock for p in batch]
            decay = group["weight_decay"]
            hat_kernels.sgd_update_(values, grads, buffers, locks, weight_decay=decay, **options)

    def _update_embeddings(self, pieces: list[Piece], group: dict[str, Any], step: Step) -> None:
        limit = self._model.config.limit
        for batch, buffers, options in self._batches(pieces, group, step):
            values, grads = [p.value for p in batch], [p.grad for p in batch]
            hat_kernels.embedding_update_(values, grads, buffers, limit=limit, **options)

    def _growth(self, piece: Piece, group: dict[str, Any], step: Step) -> float | None:
        if group["momentum"] or group["weight_decay"] or piece.norm is None:
            return None  # three passes over memory: one more to measure does not count
        scale = 1.0 if step.grad_scale is None else step.grad_scale.item()
        return float(group["lr"]) * scale * piece.norm

    def _batches(
        self, pieces: list[Piece], group: dict[str, Any], step: Step
    ) -> Iterator[tuple[list[Piece], list[Tensor], dict[str, Any]]]:
        """(pieces, buffers, options) a call: one, or where momentum is dampened another for its first step."""
        options = {name: group[name] for name in OPTIONS} | step.options()
        if not group["momentum"]:
            yield pieces, [], options
            return
        # `v = g` is what momentum makes of a buffer of zeros, but for the dampening.
        new = {
            id(p.parameter) for p in pieces if group["dampening"] and "momentum_buffer" not in self.state[p.parameter]
        }
        for is_first_step in (True, False):
            batch = [p for p in pieces if (id(p.parameter) in new) is is_first_step]
            if batch:
                buffers = self._states(batch, "momentum_buffer")
                yield batch, buffers, {**options, "is_first_step": is_first_step}
