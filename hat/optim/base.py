"""What the optimizers of this package share: a model's locks, clipping, loss scaling, and states of float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hat.clip import clip, keep_finite_
from hat.model import HATModel
from hat_kernels import Lock


class Step(NamedTuple):
    """What one step of all groups has in common.

    Attributes:
        grad_scale: 0-d factor of every gradient, or None.
        found_inf: 0-d; not 0 if the step is to be left out. None: it is taken.
        mend: the update shall count what is not finite as 0.
    """

    grad_scale: Tensor | None
    found_inf: Tensor | None
    mend: bool

    def options(self) -> dict[str, Any]:
        """As arguments of an update."""
        return self._asdict()


class LockedOptimizer(torch.optim.Optimizer):
    """An optimizer that applies the locks of a model in the update itself.

    Works with `torch.amp.GradScaler`: gradients are unscaled, and a step with an overflow is left out, inside the
    update, without waiting for the device. Clipping is of the unscaled gradients.

    Args:
        params: `model.task_parameters()`, or any parameters or groups of one model if `model` is given.
        defaults: of a parameter group.
        max_norm: clip the global norm of the locked gradients to this, > 0, or None.
        model: whose locks count; by default the one that `params` comes from.

    Raises:
        ValueError: an option out of range, or parameters of no model.
    """

    locks_itself = True
    _step_supports_amp_scaling = True  # what GradScaler asks for: it then leaves `grad_scale` and `found_inf` here

    def __init__(
        self, params: Iterable[Any], defaults: dict[str, Any], *, max_norm: float | None, model: HATModel | None
    ) -> None:
        model = getattr(params, "model", None) if model is None else model
        if not isinstance(model, HATModel):
            raise ValueError("params: expected model.task_parameters(), or model=..., got parameters of no HATModel")
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"max_norm: expected > 0, got {max_norm}")
        self._model, self._max_norm = model, max_norm
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what `closure` returned, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        locks = self._model.locks()
        groups = [
            (group, [p for p in group["params"] if p.grad is not None and p.requires_grad])
            for group in self.param_groups
        ]
        moving = list(chain.from_iterable(parameters for _, parameters in groups))
        step = self._prepare(moving, locks)
        if step is None:
            return loss
        embeddings = {id(embedding) for embedding in self._model.embeddings}
        for group, parameters in groups:
            weights = [p for p in parameters if id(p) not in embeddings]
            own = [p for p in parameters if id(p) in embeddings]
            if weights:
                self._update_weights(weights, group, [locks.get(p) for p in weights], step)
            if own:
                self._update_embeddings(own, group, step)
        if not step.mend:
            keep_finite_({p: lock for p in moving if (lock := locks.get(p)) is not None})
        return loss

    def __getstate__(self) -> dict[str, Any]:
        """With the model, so that a deepcopy of both together is a copy that locks its own model."""
        return {**super().__getstate__(), "_model": self._model, "_max_norm": self._max_norm}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `torch.optim.Optimizer`, which casts a state to its parameter's dtype; here it keeps `state_dtype`."""
        super().load_state_dict(state_dict)
        keys = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        own = chain.from_iterable(group["params"] for group in self.param_groups)
        for key, parameter in zip(keys, own, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if not isinstance(value, Tensor):
                    continue
                dtype = torch.float32 if name == "step" else state_dtype(parameter)
                loaded = self.state[parameter][name]
                if loaded.dtype != dtype or loaded.device != parameter.device:
                    self.state[parameter][name] = value.to(parameter.device, dtype, copy=True)

    def _prepare(self, parameters: list[Tensor], locks: dict[Tensor, Lock | None]) -> Step | None:
        """What the step needs, or None for none: on a CPU an overflow is known here."""
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        loss_scale: Tensor | None = getattr(self, "grad_scale", None)
        if not parameters:
            return None
        device = parameters[0].device
        if found_inf is not None:
            found_inf = found_inf.to(device)
            if device.type == "cpu":
                if found_inf.item():
                    return None
                found_inf = None
        inverse = None if loss_scale is None else loss_scale.to(device).reciprocal()
        grads = [p.grad for p in parameters if p.grad is not None]
        factor, mend = clip(grads, [locks.get(p) for p in parameters], self._max_norm, inverse)
        return Step(factor, found_inf, mend)

    def _update_weights(
        self, parameters: list[Tensor], group: dict[str, Any], locks: list[Lock | None], step: Step
    ) -> None:
        raise NotImplementedError

    def _update_embeddings(self, parameters: list[Tensor], group: dict[str, Any], step: Step) -> None:
        """The step of the embeddings, without weight decay, which would pull every gate towards one half; clamped."""
        raise NotImplementedError


def check_at_least_0(**options: float | Tensor) -> None:
    """Validate learning rates and the like.

    Raises:
        ValueError: one is negative or NaN.
    """
    for name, value in options.items():
        if not value >= 0:
            raise ValueError(f"{name}: expected >= 0, got {value}")


def state_dtype(parameter: Tensor) -> torch.dtype:
    """float32 at least: a small change of a bfloat16 average would be rounded away."""
    return torch.promote_types(parameter.dtype, torch.float32)


def new_state(parameter: Tensor) -> Tensor:
    """Zeros, so that a weight that is locked now and free later finds an empty state."""
    return torch.zeros_like(parameter, dtype=state_dtype(parameter), memory_format=torch.preserve_format)


def grads_of(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
