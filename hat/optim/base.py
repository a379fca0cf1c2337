"""What the optimizers of this package share: what may move, clipping, loss scaling, and states of float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hat.layers.updaters import claim
from hat.life.model import HATModel
from hat.network.moving import Blocks, follow
from hat.optim.bounds import Bounds, Grown
from hat.optim.clip import clip
from hat.optim.standins import drop_finished
from hat.units.blocks import Block, cut, join, pack, unpack
from hat.units.change import Changes, applied
from hat_kernels import Lock
from hat_kernels.dispatch import free_to_read
from hat_kernels.gradient_memory import norm_bound


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


class Piece(NamedTuple):
    """A part of a parameter that may move, in one step.

    Attributes:
        parameter: all of it.
        blocks: of the parameter.
        number: which of them.
        value, grad: views of the parameter and its gradient.
        lock: of the part; None where all of it may move.
        shared: finished tasks meet it.
        norm: on a CPU, a number no less than that of `grad` if one is known.
    """

    parameter: Tensor
    blocks: Sequence[Block]
    number: int
    value: Tensor
    grad: Tensor
    lock: Lock | None
    shared: bool
    norm: float | None


Groups = list[tuple[dict[str, Any], list[Piece]]]
"""Parameter groups, and what this step moves of each."""


class LockedOptimizer(torch.optim.Optimizer):
    """An optimizer that updates what the locks of a model let move, and nothing else.

    A state, such as a momentum buffer, exists for the blocks of a parameter that may move, see `HATModel.blocks`: a
    tensor, or a list where there is not one block. It moves and shrinks with them when a task ends.

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
        self._model, self._max_norm, self._bounds = model, max_norm, Bounds()
        super().__init__(params, defaults)
        follow(model, self)
        claim((p for group in self.param_groups for p in group["params"]), None)

    @property
    def model(self) -> HATModel:
        """The model whose locks count."""
        return self._model

    @property
    def max_norm(self) -> float | None:
        """What the global norm of the locked gradients is clipped to."""
        return self._max_norm

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; returns what `closure` returned, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        blocks = self._model.blocks()
        groups = [(group, self._pieces(group["params"], blocks)) for group in self.param_groups]
        step, groups = self._prepare(groups)
        if step is None:
            return loss
        grown = [self._grown(piece, group, step) for group, pieces in groups for piece in pieces if piece.shared]
        embeddings = {id(embedding) for embedding in self._model.embeddings}
        for group, pieces in groups:
            weights = [piece for piece in pieces if id(piece.parameter) not in embeddings]
            own = [piece for piece in pieces if id(piece.parameter) in embeddings]
            if weights:
                self._update_weights(weights, group, step)
            if own:
                self._update_embeddings(own, group, step)
        if not step.mend:
            self._bounds.keep(grown)
        return loss

    def _pieces(self, parameters: list[Tensor], known: Blocks) -> list[Piece]:
        """What this step moves."""
        unscaled = getattr(self, "found_inf", None) is not None  # by a GradScaler, whose writing PyTorch does not count
        found = []
        for parameter in parameters:
            if parameter.grad is None or not parameter.requires_grad:
                continue
            blocks, norm = known.get(parameter, _WHOLE), None if unscaled else norm_bound(parameter)
            for number, block in enumerate(blocks):
                value, grad = parameter, parameter.grad
                if block.where:
                    value, grad = parameter[block.where], grad[block.where]
                # A CPU saves the mask. A kernel takes it for its sign that finished tasks meet the parameter.
                lock = None if block.free and free_to_read(value) else block.lock
                found.append(Piece(parameter, blocks, number, value, grad, lock, block.lock is not None, norm))
        return found

    def _grown(self, piece: Piece, group: dict[str, Any], step: Step) -> Grown:
        """A piece as it will be after the step."""
        before, growth = self._bounds.of(piece.parameter, piece.number), self._growth(piece, group, step)
        bound = None if before is None or growth is None else before + growth
        return Grown(piece.parameter, piece.number, piece.value, piece.lock, bound)

    def _growth(self, piece: Piece, group: dict[str, Any], step: Step) -> float | None:
        """A number no less than the norm of what the step adds to a piece, or None where that is not known."""
        return None

    def _states(self, pieces: list[Piece], name: str) -> list[Tensor]:
        """The state of this name of every piece; zeros where there is none yet."""
        found = []
        for piece in pieces:
            state = self.state[piece.parameter]
            if name not in state:
                state[name] = pack([new_state(part) for part in cut(piece.parameter, piece.blocks)])
            parts = unpack(state[name], piece.blocks, piece.parameter)
            state[name] = pack(parts)
            found.append(parts[piece.number])
        return found

    def abandon(self) -> None:
        """Leave a step that a graph has recorded in part and that has not run."""

    def follow(self, changes: Changes, before: Blocks, after: Blocks, like: Mapping[Tensor, Tensor]) -> None:
        """See `hat.network.moving.Follower`."""
        self._bounds.forget()
        drop_finished(self, self._model.frozen_parameters())
        for parameter, state in list(self.state.items()):
            old, new = before.get(parameter, _WHOLE), after.get(parameter, _WHOLE)
            for name in state.keys() - {"step"}:
                try:
                    was = like.get(parameter, parameter)
                    whole = join(unpack(state[name], old, was), old, was)
                except ValueError:  # of other blocks: the next step says so, the task ends all the same
                    continue
                state[name] = pack([part.clone() for part in cut(applied(whole, changes.get(parameter, ())), new)])

    def forget(self, gone: Sequence[Tensor]) -> None:
        """See `hat.network.moving.Follower`: the next step starts anew."""
        self._bounds.forget()
        drop_finished(self, gone)
        self.state.clear()

    def __getstate__(self) -> dict[str, Any]:
        """With the model, so that a deepcopy of both together is a copy that locks its own model."""
        return {**super().__getstate__(), "_model": self._model, "_max_norm": self._max_norm}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._bounds = Bounds()
        if "_model" in state:  # not where a state_dict is loaded, which comes this way too
            follow(self._model, self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `torch.optim.Optimizer`, which casts a state to its parameter's dtype; here it keeps `state_dtype`."""
        super().load_state_dict(state_dict)
        keys = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        own = chain.from_iterable(group["params"] for group in self.param_groups)
        for key, parameter in zip(keys, own, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                dtype = torch.float32 if name == "step" else state_dtype(parameter)
                loaded = self.state[parameter]
                if isinstance(value, Tensor):
                    loaded[name] = _as(value, loaded[name], parameter.device, dtype)
                elif isinstance(value, list):
                    pairs = zip(value, loaded[name], strict=True)
                    loaded[name] = [_as(given, cast, parameter.device, dtype) for given, cast in pairs]

    def _prepare(self, groups: Groups) -> tuple[Step | None, Groups]:
        """What the step needs, or None for none: on a CPU an overflow is known here. The pieces know their norms."""
        pieces = [piece for _, own in groups for piece in own]
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        loss_scale: Tensor | None = getattr(self, "grad_scale", None)
        if not pieces:
            return None, groups
        device = pieces[0].value.device
        if found_inf is not None:
            found_inf = found_inf.to(device)
            if free_to_read(pieces[0].value):
                if found_inf.item():
                    return None, groups
                found_inf = None
        inverse = None if loss_scale is None else loss_scale.to(device).reciprocal()
        grads, locks, bounds = zip(*((piece.grad, piece.lock, piece.norm) for piece in pieces), strict=True)
        tamed = clip(grads, locks, self._max_norm, inverse, bounds)
        norms = iter(tamed.norms or bounds)
        groups = [(group, [piece._replace(norm=next(norms)) for piece in own]) for group, own in groups]
        return Step(tamed.factor, found_inf, tamed.mend), groups

    def _update_weights(self, pieces: list[Piece], group: dict[str, Any], step: Step) -> None:
        raise NotImplementedError

    def _update_embeddings(self, pieces: list[Piece], group: dict[str, Any], step: Step) -> None:
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
    """Zeros in the layout of a part of a parameter."""
    return torch.zeros_like(parameter, dtype=state_dtype(parameter), memory_format=torch.preserve_format)


def _as(given: Tensor, cast: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What was cast in loading, if that kept dtype and device, else what was given."""
    fits = cast.dtype == dtype and cast.device == device
    return cast if fits else given.to(device, dtype, copy=True)


_WHOLE = (Block(),)
