"""Stochastic gradient descent under the lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

import hat_kernels
from hat.layers.updaters import claim
from hat.life.model import HATModel
from hat.optim.base import LockedOptimizer, Piece, Step, check_at_least_0
from hat.optim.in_backward import InBackward

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
        in_backward: move the weights of `hat.HATLinear` inside the matmul of the backward pass. Their gradients are
            never in memory, `.grad` stays None; the rest moves in `step`, which must come after every backward pass.
            Refused with what needs the gradient: momentum, clipping, and when it happens gradient accumulation, a
            second backward pass, a layer that is used twice, a hook, several processes. A loss scale is refused in
            `step`, when it is in the weights already. Any backward pass moves weights, `torch.autograd.grad` for inputs
            too. On a GPU under any lock, under autocast too, and nothing waits for the device; there a gradient is in
            memory for a moment unless the kernel was measured to be faster, see `hat_kernels.linear_update_`. On a CPU
            weights move in `step` as ever under autocast and where units are not in order.
        model: whose locks count; by default the one that `params` comes from.

    Raises:
        ValueError: an option out of range, two that exclude each other, or parameters of no model.
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
        in_backward: bool = False,
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
        if in_backward and (momentum or max_norm is not None):
            got = f"momentum {momentum}" if momentum else f"max_norm {max_norm}"
            raise ValueError(f"in_backward: expected neither momentum nor clipping, which need the gradient, got {got}")
        super().__init__(params, defaults, max_norm=max_norm, model=model)
        self._inside: InBackward | None = None
        self._claim(in_backward)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """See `LockedOptimizer.step`.

        Raises:
            RuntimeError: a loss scale, and `in_backward`.
        """
        if self._inside is None:
            return super().step(closure)
        if getattr(self, "grad_scale", None) is not None:
            raise RuntimeError("in_backward: expected no loss scale, which is in the weights by now; use bfloat16")
        self._inside.moved.clear()
        try:
            return super().step(closure)
        finally:
            self._inside.moved.clear()  # what a closure has moved

    def abandon(self) -> None:
        """See `LockedOptimizer.abandon`."""
        if self._inside is not None:
            self._inside.moved.clear()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._claim(getattr(self, "_inside", None) is not None)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_in_backward": self._inside is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        in_backward = state.pop("_in_backward", getattr(self, "_inside", None) is not None)
        super().__setstate__(state)
        self._inside = None
        self._claim(in_backward)

    def _claim(self, in_backward: bool) -> None:
        """Move the weights that lie along a gate in the backward pass, with their groups as they are now."""
        if in_backward:
            known = self._model.blocks()
            groups = {p: group for group in self.param_groups for p in group["params"] if p in known}
            self._inside = InBackward(self._model, groups, self._bounds)
            claim(groups, self._inside)

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
