"""Adam and AdamW under the lock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

import hat_kernels
from hat.life.model import HATModel
from hat.optim.base import LockedOptimizer, Piece, StepOptions
from hat.optim.check import check_learning_rate
from hat_kernels.adamw_update.options import check_betas
from hat_kernels.check import check_at_least_0, check_switches


class AdamW(LockedOptimizer):
    """AdamW, or Adam, under the lock of a model. It also clamps the embeddings.

    The step is that of `torch.optim.AdamW` with `W -= rate * d`, see `hat_kernels.adamw_update_`: the lock acts after
    moments and weight decay. Embeddings do not decay. `torch.amp.GradScaler` works. Moments have at least float32. The
    step counters are on the device of the parameters, so a CUDA graph can capture every step but the first, which makes
    the state.

    Args:
        params: `model.task_parameters()`, or any parameters or groups of one model if `model` is given.
        lr: learning rate, >= 0, a number or a 0-d tensor.
        betas: decay of the two moments, in [0, 1).
        eps: added to the root of the second moment, >= 0.
        weight_decay: >= 0.
        amsgrad: divide by the largest second moment so far.
        maximize: ascend instead of descend.
        decoupled_weight_decay: True decays the weights (AdamW); False adds the decay to the gradient (Adam).
        max_norm: clip the global norm of the locked gradients to this, > 0, or None; the paper's code has 10 000.
        model: its locks count; by default the model that `params` comes from.

    Raises:
        TypeError: an option or a parameter is of another type.
        ValueError: a parameter belongs to another model, is not a leaf or occurs twice; an option is out of range, or
            the parameters belong to no model.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        maximize: bool = False,
        decoupled_weight_decay: bool = True,
        max_norm: float | None = None,
        model: HATModel | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, max_norm=max_norm, model=model)

    def _check_options(self, options: Mapping[str, Any], model: HATModel) -> None:
        check_learning_rate(options["lr"], model.state.scale.device)
        check_betas(options["betas"])
        check_at_least_0(eps=options["eps"], weight_decay=options["weight_decay"])
        check_switches(**{name: options[name] for name in ("amsgrad", "maximize", "decoupled_weight_decay")})

    def _update_weights(self, pieces: list[Piece], group: dict[str, Any], step: StepOptions) -> None:
        self._update(pieces, group, step, group["weight_decay"])

    def _update_embeddings(self, pieces: list[Piece], group: dict[str, Any], step: StepOptions) -> None:
        self._update(pieces, group, step, 0.0)
        limit = self._model.config.limit
        embeddings = [piece.value for piece in pieces]
        torch._foreach_clamp_min_(embeddings, -limit)
        torch._foreach_clamp_max_(embeddings, limit)

    def _update(self, pieces: list[Piece], group: dict[str, Any], step: StepOptions, weight_decay: float) -> None:
        for piece in pieces:
            state = self.state[piece.parameter]
            if "step" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=piece.value.device)
        hat_kernels.adamw_update_(
            [piece.value for piece in pieces],
            [piece.grad for piece in pieces],
            self._states(pieces, "exp_avg"),
            self._states(pieces, "exp_avg_sq"),
            self._states(pieces, "max_exp_avg_sq") if group["amsgrad"] else [],
            [self.state[piece.parameter]["step"] for piece in pieces],
            [piece.lock for piece in pieces],
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=weight_decay,
            decoupled=group["decoupled_weight_decay"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
            **step.options(),
        )
