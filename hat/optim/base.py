"""The base class of the optimizers here: it finds what may move, clips, unscales, and keeps states in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hat.arguments import check_arguments, check_type, got
from hat.layers.updaters import claim
from hat.life.model import HATModel
from hat.network.moving import Blocks, follow
from hat.network.sharded import refuse_sharded
from hat.optim.bounds import Bounds, Grown
from hat.optim.check import check_group, check_max_norm, check_parameters, check_state, listed, refuse_foreign
from hat.optim.clip import clip
from hat.optim.groups import add_group, drop, left_empty
from hat.units.blocks import Block, cut, join, pack, unpack
from hat.units.change import Changes, applied
from hat_kernels import Lock
from hat_kernels.dispatch import free_to_read
from hat_kernels.gradient_memory import norm_bound


class StepOptions(NamedTuple):
    """Options of an update that all parameter groups share in one step.

    Attributes:
        grad_scale: 0-d factor of every gradient, or None.
        found_inf: 0-d; if it is not 0, the update does nothing. None: the update is always made.
        mend: the update counts inf and NaN in gradients as 0.
    """

    grad_scale: Tensor | None
    found_inf: Tensor | None
    mend: bool

    def options(self) -> dict[str, Any]:
        """The options as arguments of an update."""
        return self._asdict()


class Piece(NamedTuple):
    """One block of a parameter that may move, as a step sees it.

    Attributes:
        parameter: the whole parameter.
        blocks: all blocks of the parameter that may move.
        number: which of these blocks this is.
        value, grad: the block of the parameter and of its gradient, as views.
        lock: of the block; None if all of the block may move.
        shared: finished tasks read the block.
        norm: on a CPU, an upper bound of the norm of `grad`; None if no bound is known.
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
"""Every parameter group with the pieces that this step moves."""


class LockedOptimizer(torch.optim.Optimizer):
    """An optimizer that updates only what the locks of a model let move.

    The optimizer keeps a state, such as a momentum buffer, only for the blocks of a parameter that may move, see
    `HATModel.blocks`. For one block the state is a tensor; otherwise it is a list of tensors, one a block. When a task
    ends, units change places and blocks shrink, and the states follow.

    `torch.amp.GradScaler` works: the update itself unscales the gradients and leaves out a step with an overflow,
    without waiting for the device. The unscaled gradients are clipped.

    Args:
        params: `model.task_parameters()`, or any parameters or groups of one model if `model` is given.
        defaults: the options of a parameter group.
        max_norm: clip the global norm of the locked gradients to this, > 0, or None.
        model: its locks count; by default the model that `params` comes from.

    Raises:
        TypeError: a parameter is not a dense floating tensor, or is spread over several processes, as by `fully_shard`.
        ValueError: an option is out of range; the parameters belong to no model; or a parameter belongs to another
            model, is not a leaf, or occurs twice.
    """

    locks_itself = True
    _step_supports_amp_scaling = True  # GradScaler reads this, and then sets `grad_scale` and `found_inf` on self

    def __init__(
        self, params: Iterable[Any], defaults: dict[str, Any], *, max_norm: float | None, model: HATModel | None
    ) -> None:
        if model is not None:
            check_type("model", model, HATModel, "a hat.HATModel")
        model = getattr(params, "model", None) if model is None else model
        if not isinstance(model, HATModel):
            raise ValueError("params: expected model.task_parameters(), or model=..., got parameters of no HATModel")
        check_max_norm(max_norm)
        params = listed(params)
        self._check_options(defaults, model)
        refuse_sharded(model.named_parameters, "params")
        self._model, self._max_norm, self._bounds = model, max_norm, Bounds()
        super().__init__(params, defaults)
        follow(model, self)
        claim((p for group in self.param_groups for p in group["params"]), None)

    @property
    def model(self) -> HATModel:
        """The model; its locks count."""
        return self._model

    @property
    def max_norm(self) -> float | None:
        """The largest global norm of the locked gradients, or None."""
        return self._max_norm

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Returns:
            The result of `closure`, or None without a closure.
        """
        loss = None
        if closure is not None:
            if not callable(closure):
                raise TypeError(f"closure: expected a function or None, got {got(closure)}")
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
            gates = [piece for piece in pieces if id(piece.parameter) in embeddings]
            if weights:
                self._update_weights(weights, group, step)
            if gates:
                self._update_embeddings(gates, group, step)
        if not step.mend:
            self._bounds.keep(grown)
        return loss

    def _pieces(self, parameters: list[Tensor], blocks_by_parameter: Blocks) -> list[Piece]:
        """The pieces that this step moves."""
        # A GradScaler has written to the gradients, and PyTorch does not count its writes: the bounds may be too old.
        unscaled = getattr(self, "found_inf", None) is not None
        pieces, frozen = [], self._model.frozen.parameters
        for parameter in parameters:
            if parameter.grad is None or not parameter.requires_grad or id(parameter) in frozen:
                continue
            blocks, norm = blocks_by_parameter.get(parameter, _WHOLE), None if unscaled else norm_bound(parameter)
            for number, block in enumerate(blocks):
                value, grad = parameter, parameter.grad
                if block.where:
                    value, grad = parameter[block.where], grad[block.where]
                # A CPU saves the time of a lock that locks nothing. A kernel gets the lock, because the lock tells the
                # kernel that finished tasks read the parameter.
                lock = None if block.free and free_to_read(value) else block.lock
                pieces.append(Piece(parameter, blocks, number, value, grad, lock, block.lock is not None, norm))
        return pieces

    def _grown(self, piece: Piece, group: dict[str, Any], step: StepOptions) -> Grown:
        """A piece after the step, with a bound of its norm."""
        before, growth = self._bounds.of(piece.parameter, piece.number), self._growth(piece, group, step)
        bound = None if before is None or growth is None else before + growth
        return Grown(piece.parameter, piece.number, piece.value, piece.lock, bound)

    def _growth(self, piece: Piece, group: dict[str, Any], step: StepOptions) -> float | None:
        """An upper bound of the norm of the update of a piece; None if no bound is known."""
        return None

    def _states(self, pieces: list[Piece], name: str) -> list[Tensor]:
        """The state `name` of every piece; a new state is zeros."""
        states = []
        for piece in pieces:
            state = self.state[piece.parameter]
            if name not in state:
                state[name] = pack([new_state(part) for part in cut(piece.parameter, piece.blocks)])
            parts = unpack(state[name], piece.blocks, piece.parameter)
            state[name] = pack(parts)
            states.append(parts[piece.number])
        return states

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As `torch.optim.Optimizer.add_param_group`, in the place that a finished head has left, if there is one.

        Raises:
            TypeError: it is not a dict with parameters, or a parameter is not a dense floating tensor.
            ValueError: an option is out of range; or a parameter belongs to another model, is not a leaf, or is in the
                optimizer already.
        """
        check_group("param_group", param_group)
        given = param_group["params"]
        parameters = [given] if isinstance(given, Tensor) else list(given)
        check_parameters(self, parameters)
        refuse_foreign((p[1] if isinstance(p, tuple) else p for p in parameters), self._model, "params")
        self._check_options({**self.defaults, **param_group}, self._model)
        param_group["params"] = parameters
        add_group(self, super().add_param_group, param_group)

    def abandon(self) -> None:
        """Clean up after a step that a graph has recorded only in part, and that has not run."""

    def follow(self, changes: Changes, before: Blocks, after: Blocks, like: Mapping[Tensor, Tensor]) -> None:
        """See `hat.network.moving.Follower`."""
        check_arguments(LockedOptimizer.follow, locals())
        self._bounds.forget()
        drop(self, self._model.frozen.parameters)
        for parameter, state in list(self.state.items()):
            old, new = before.get(parameter, _WHOLE), after.get(parameter, _WHOLE)
            for name in state.keys() - {"step"}:
                try:
                    old_tensor = like.get(parameter, parameter)
                    whole = join(unpack(state[name], old, old_tensor), old, old_tensor)
                except ValueError:  # the state fits other blocks: the next step says so, but the task may end
                    continue
                state[name] = pack([part.clone() for part in cut(applied(whole, changes.get(parameter, ())), new)])

    def forget(self, gone: Sequence[Tensor]) -> None:
        """See `hat.network.moving.Follower`. The next step starts with a new state."""
        check_arguments(LockedOptimizer.forget, locals())
        self._bounds.forget()
        drop(self, {id(parameter) for parameter in gone})
        self.state.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Includes the model: if a deepcopy copies both together, the copied optimizer locks the copied model."""
        own = {"_model": self._model, "_max_norm": self._max_norm, "_left_empty": left_empty(self)}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._bounds = Bounds()
        if "_model" in state:  # absent when a state_dict is loaded: `load_state_dict` calls this method too
            follow(self._model, self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state as `torch.optim.Optimizer` does, but keep the states in `state_dtype`.

        `torch.optim.Optimizer` would cast a state to the dtype of its parameter.

        Raises:
            TypeError: it is not the state of an optimizer.
            ValueError: it has other groups, or an option in it is out of range.
        """
        check_state(self, state_dict)
        for group in state_dict["param_groups"]:
            self._check_options({**self.defaults, **group}, self._model)
        super().load_state_dict(state_dict)
        keys = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        for key, parameter in zip(keys, parameters, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                dtype = torch.float32 if name == "step" else state_dtype(parameter)
                loaded = self.state[parameter]
                if isinstance(value, Tensor):
                    loaded[name] = _as(value, loaded[name], parameter.device, dtype)
                elif isinstance(value, list):
                    pairs = zip(value, loaded[name], strict=True)
                    loaded[name] = [_as(given, cast, parameter.device, dtype) for given, cast in pairs]

    def _prepare(self, groups: Groups) -> tuple[StepOptions | None, Groups]:
        """Clip the gradients.

        Returns:
            (the options that all groups share, the groups with the norms of their gradients). The options are None if
            the step is left out: nothing has a gradient, or, on a CPU, a gradient has overflowed.
        """
        pieces = [piece for _, group_pieces in groups for piece in group_pieces]
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
        clipped = clip(grads, locks, self._max_norm, inverse, bounds)
        norms = iter(clipped.norms or bounds)
        groups = [(group, [piece._replace(norm=next(norms)) for piece in pieces]) for group, pieces in groups]
        return StepOptions(clipped.factor, found_inf, clipped.mend), groups

    def _check_options(self, options: Mapping[str, Any], model: HATModel) -> None:
        """Check the options of a parameter group of the model.

        Raises:
            TypeError, ValueError: an option is of another type, or out of range.
        """
        raise NotImplementedError

    def _update_weights(self, pieces: list[Piece], group: dict[str, Any], step: StepOptions) -> None:
        """Update pieces of weights."""
        raise NotImplementedError

    def _update_embeddings(self, pieces: list[Piece], group: dict[str, Any], step: StepOptions) -> None:
        """Update embeddings and clamp them. They do not decay: weight decay would pull every gate towards 1/2."""
        raise NotImplementedError


def state_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype of a state: at least float32, because a small change of a bfloat16 average would be rounded away."""
    return torch.promote_types(parameter.dtype, torch.float32)


def new_state(parameter: Tensor) -> Tensor:
    """Zeros with the memory layout of a part of a parameter."""
    return torch.zeros_like(parameter, dtype=state_dtype(parameter), memory_format=torch.preserve_format)


def _as(given: Tensor, cast: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`cast`, the value after loading, if it has the dtype and device; otherwise `given`, the value before loading."""
    fits = cast.dtype == dtype and cast.device == device
    return cast if fits else given.to(device, dtype, copy=True)


_WHOLE = (Block(),)
