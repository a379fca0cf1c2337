"""Stochastic gradient descent under the lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

import hat_kernels
from hat.layers.updaters import claim
from hat.life.model import HATModel
from hat.optim.base import LockedOptimizer, Piece, StepOptions
from hat.optim.check import check_learning_rate
from hat.optim.in_backward import InBackward
from hat_kernels.check import check_at_least_0, check_number, check_switches

OPTIONS = ("lr", "momentum", "dampening", "nesterov", "maximize")


class SGD(LockedOptimizer):
    """SGD under the lock of a model. It also clamps the embeddings.

    The step is that of `torch.optim.SGD` with `W -= lr * rate * d`, see `hat_kernels.sgd_update_`: the lock acts after
    momentum and weight decay. Embeddings do not decay. `torch.amp.GradScaler` works. Momentum has at least float32.

    With `in_backward`, the weights of `hat.HATLinear` move inside the matmul of the backward pass:

    - Their gradients are never in memory, and `.grad` stays None. All other parameters move in `step`, which must
      follow every backward pass.
    - Every backward pass moves these weights, even `torch.autograd.grad` for inputs.
    - Everything that needs the gradient is refused: momentum and clipping at once; gradient accumulation, a second
      backward pass, a layer that is used twice, a hook, and several processes when they happen. A loss scale is refused
      in `step`; by then the scaled gradients are already in the weights.
    - On a GPU it works under any lock and under autocast, and nothing waits for the device. A gradient is in memory for
      a moment, unless the kernel was measured to be faster, see `hat_kernels.linear_update_`.
    - On a CPU, weights move in `step` as usual under autocast, and if their units are not in order.

    Args:
        params: `model.task_parameters()`, or any parameters or groups of one model if `model` is given.
        lr: learning rate, >= 0, a number or a 0-d tensor; 0.05 in the paper.
        momentum, dampening, weight_decay, nesterov, maximize: as in `torch.optim.SGD`.
        max_norm: clip the global norm of the locked gradients to this, > 0, or None; the paper's code has 10 000.
        in_backward: move the weights of `hat.HATLinear` in the backward pass, see above.
        model: its locks count; by default the model that `params` comes from.

    Raises:
        TypeError: an option or a parameter is of another type.
        ValueError: a parameter belongs to another model, is not a leaf or occurs twice; an option is out of range, two
            options exclude each other, or the parameters belong to no model.
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
        check_switches(in_backward=in_backward)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        check_at_least_0(momentum=momentum)
        if in_backward and (momentum or max_norm is not None):
            got = f"momentum {momentum}" if momentum else f"max_norm {max_norm}"
            raise ValueError(f"in_backward: expected neither momentum nor clipping, which need the gradient, got {got}")
        super().__init__(params, defaults, max_norm=max_norm, model=model)
        self._inside: InBackward | None = None
        self._claim(in_backward)

    def _check_options(self, options: Mapping[str, Any], model: HATModel) -> None:
        check_learning_rate(options["lr"], model.state.scale.device)
        momentum, dampening = options["momentum"], options["dampening"]
        check_at_least_0(momentum=momentum, weight_decay=options["weight_decay"])
        check_number("dampening", dampening)
        check_switches(nesterov=options["nesterov"], maximize=options["maximize"])
        if options["nesterov"] and (momentum <= 0 or dampening != 0):
            got = f"momentum {momentum} and dampening {dampening}"
            raise ValueError(f"nesterov: expected momentum > 0 and dampening 0, got {got}")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """See `LockedOptimizer.step`.

        Raises:
            RuntimeError: a GradScaler scales the loss, and `in_backward` is on.
        """
        if self._inside is None:
            return super().step(closure)
        if getattr(self, "grad_scale", None) is not None:
            raise RuntimeError("in_backward: expected no loss scale, got one, and it is in the weights; use bfloat16")
        self._inside.moved.clear()
        try:
            return super().step(closure)
        finally:
            self._inside.moved.clear()  # a closure may have moved weights

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
        """Tell the weights that lie along a gate to move in the backward pass, with the options of their groups."""
        if in_backward:
            blocks = self._model.blocks()
            groups = {p: group for group in self.param_groups for p in group["params"] if p in blocks}
            self._inside = InBackward(self._model, groups, self._bounds)
            claim(groups, self._inside)

    def _update_weights(self, pieces: list[Piece], group: dict[str, Any], step: StepOptions) -> None:
        for batch, buffers, options in self._batches(pieces, group, step):
            values, grads, locks = [p.value for p in batch], [p.grad for p in batch], [p.lock for p in batch]
            decay = group["weight_decay"]
            hat_kernels.sgd_update_(values, grads, buffers, locks, weight_decay=decay, **options)

    def _update_embeddings(self, pieces: list[Piece], group: dict[str, Any], step: StepOptions) -> None:
        limit = self._model.config.limit
        for batch, buffers, options in self._batches(pieces, group, step):
            values, grads = [p.value for p in batch], [p.grad for p in batch]
            hat_kernels.embedding_update_(values, grads, buffers, limit=limit, **options)

    def _growth(self, piece: Piece, group: dict[str, Any], step: StepOptions) -> float | None:
        if group["momentum"] or group["weight_decay"] or piece.norm is None:
            return None  # such a step reads much memory: to measure the weights after it costs little in comparison
        scale = 1.0 if step.grad_scale is None else step.grad_scale.item()
        return float(group["lr"]) * scale * piece.norm

    def _batches(
        self, pieces: list[Piece], group: dict[str, Any], step: StepOptions
    ) -> Iterator[tuple[list[Piece], list[Tensor], dict[str, Any]]]:
        """(pieces, buffers, options) of every call of the kernel.

        There is one call. With dampened momentum, pieces that take their first step need a call for themselves.
        """
        options = {name: group[name] for name in OPTIONS} | step.options()
        if not group["momentum"]:
            yield pieces, [], options
            return
        # The first step of momentum is `v = g`. Without dampening, a buffer of zeros gives the same.
        without_buffer = {
            id(p.parameter) for p in pieces if group["dampening"] and "momentum_buffer" not in self.state[p.parameter]
        }
        for is_first_step in (True, False):
            batch = [p for p in pieces if (id(p.parameter) in without_buffer) is is_first_step]
            if batch:
                buffers = self._states(batch, "momentum_buffer")
                yield batch, buffers, {**options, "is_first_step": is_first_step}
