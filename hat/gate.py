"""The gate: an axis of units, what lies along it, and which units the finished tasks use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import hat_kernels
from hat.blocks import Side
from hat.state import Float32Module, State


class Along(NamedTuple):
    """One parameter that lies along a gate's axis of units.

    Attributes:
        module: the module that owns the parameter.
        name: its name there.
        dim: the dimension of the parameter that lies along the axis: 0 of a producer, 1 of a consumer.
        repeat: how many consecutive indices of that dimension belong to one unit (a channel after a flatten).
        groups: of the grouped convolution that consumes the axis.
    """

    module: nn.Module
    name: str
    dim: int
    repeat: int = 1
    groups: int = 1

    @property
    def parameter(self) -> Tensor | None:
        """The parameter as it is now; None if there is none, or if the module computes it from others."""
        return self.module._parameters.get(self.name)


class Gate(Float32Module):
    """Hard attention over one axis of units: `a = sigmoid(s e)`, Serrà et al. 2018, eq. 1.

    As a module it multiplies its input by the gate. Everything that locks, counts or moves units is one loop over
    `members`.

    Args:
        units: length of the axis, > 0.
        unit_dim: the dimension of the activations that holds the units: -1 for (..., N), 1 for (B, N, ...).

    Attributes:
        embedding: [units] float32 parameter, the current task's `e`.
        masks: [T, units] float32 buffer, the committed gate of every finished task.
        origin: [units] int64 buffer, where each unit lay before units were moved for the first time; see `hat.moving`.
        used: [units] float32, the maximum of `masks` over tasks; follows `masks` on load and on commit.
        free: [units] float32, `1 - used`; kept, as what locks a weight should have the same address at every step.
        locked: how many units at the front are used, in mode `binary`; 0 in mode `published`, where all move a little.
        in_order: all units behind those are free.
        members: the parameters along the axis, see `Along`.
        complete: `members` is all that meets the units, so that they may be moved. `hat.chain` knows this of its gates;
            where layers are wired by hand, set it.
    """

    masks: Tensor
    origin: Tensor
    used: Tensor
    free: Tensor
    state: State

    def __init__(self, units: int, *, unit_dim: int = -1) -> None:
        super().__init__()
        if units < 1:
            raise ValueError(f"units: expected at least 1, got {units}")
        self.units, self.unit_dim = units, unit_dim
        self.members: list[Along] = []
        self.complete = False
        self.locked, self.in_order = 0, True
        self.embedding = nn.Parameter(torch.randn(units, dtype=torch.float32))
        self.register_buffer("masks", torch.zeros(0, units, dtype=torch.float32))
        self.register_buffer("origin", torch.arange(units))
        self.register_buffer("used", torch.zeros(units, dtype=torch.float32), persistent=False)
        self.register_buffer("free", torch.ones(units, dtype=torch.float32), persistent=False)
        self.share(State())

    def share(self, state: State) -> None:
        """Follow the scale and task of `state`, whose owner keeps it in its own `state_dict`."""
        self.__dict__["state"] = state  # not a submodule: one state, many gates
        self._count_locked()

    def attach(self, module: nn.Module, name: str, dim: int, *, repeat: int = 1, groups: int = 1) -> None:
        """Declare that dimension `dim` of `module.name` lies along this axis.

        Raises:
            AttributeError: the module has nothing of this name.
            ValueError: the parameter's length there is not `units * repeat / groups`.
        """
        member = Along(module, name, dim, repeat, groups)
        parameter = getattr(module, name)
        if parameter is not None and parameter.shape[dim] * groups != self.units * repeat:
            expected = f"{self.units} units x {repeat}"
            raise ValueError(f"{name}: expected {expected} along dimension {dim}, got {tuple(parameter.shape)}")
        self.members.append(member)
        # Not a submodule of the layer that reads it: a plain list, out of reach of `Module.__setattr__`.
        module.__dict__.setdefault("_read_gates", []).append(self)

    def reads(self, module: nn.Module) -> bool:
        """Whether the inputs of a module are units of this gate."""
        return any(member.module is module and member.dim == 1 for member in self.members)

    @property
    def tasks(self) -> int:
        """How many tasks have committed a mask."""
        return self.masks.shape[0]

    def side(self, repeat: int = 1) -> Side:
        """The units as one dimension of a parameter has them, each `repeat` times in a row."""
        return Side(self.free, repeat, self.locked, self.in_order)

    def identity(self) -> Iterator[int]:
        """What changes whenever a lock of a parameter along this axis may have changed: its free units, its members."""
        yield self.locked
        yield self.in_order
        yield id(self.free)
        yield self.free._version
        for member in self.members:
            yield id(member.parameter)

    def hardened(self) -> Tensor:
        """[units] what `commit` would store now: `e > 0` in mode `binary`; else `sigmoid(s_max e)`, floored."""
        with torch.no_grad():
            if self.state.config.mask_mode == "binary":
                return (self.embedding > 0).to(torch.float32)
            soft = torch.sigmoid(self.state.config.s_max * self.embedding)
            return torch.where(soft < hat_kernels.GATE_FLOOR, 0.0, soft)

    def form(self) -> dict[str, Any]:
        """The gate in the form that `hat_kernels.gated_activation` takes, for the task that `state` names.

        While a task is learned, that is the soft gate in training mode and `hardened()` in evaluation mode, so that
        what is validated is what will be committed.
        """
        task = self.state.task
        if task is None:
            if not self.training:
                return {"mask": self.hardened()}
            config = self.state.config
            return {
                "embedding": self.embedding,
                "scale": self.state.scale,
                "s_max": config.s_max,
                "compensation": config.compensation,
            }
        if isinstance(task, Tensor):
            return {"mask": self.masks, "task": task}
        return {} if isinstance(task, str) else {"mask": self.masks[task]}

    def forward(self, x: Tensor) -> Tensor:
        """`x * a` along `unit_dim`; same shape and dtype."""
        return hat_kernels.gated_activation(x, activation="identity", unit_dim=self.unit_dim, **self.form())

    @torch.no_grad()
    def begin_task(self) -> None:
        """Draw a fresh embedding, in place: the same for a unit wherever it has been moved to."""
        drawn = torch.empty_like(self.embedding)
        drawn = drawn.normal_() if self.state.config.init == "normal" else drawn.uniform_(0, 2)
        self.embedding.copy_(drawn[self.origin])

    @torch.no_grad()
    def commit(self) -> None:
        """Append the current gate to `masks`; from now on its units are used."""
        self.masks = torch.cat([self.masks, self.hardened()[None]])
        self._refresh_used()

    def _refresh_used(self) -> None:
        if self.tasks:
            self.used.copy_(self.masks.amax(0))
        else:
            self.used.zero_()
        torch.sub(1, self.used, out=self.free)
        self._count_locked()

    def _count_locked(self) -> None:
        self.locked, self.in_order = 0, False
        if self.state.config.mask_mode == "binary" and not self.used.is_meta:
            used = self.used.cpu()
            locked = used == 1
            self.locked = int(locked.cumprod(0).sum())
            self.in_order = not used[self.locked :].any()

    @torch.no_grad()
    def move(self, order: Tensor) -> None:
        """Give place p to the unit at place `order[p]`, in the gate's buffers; for parameters see `hat.moving`."""
        self.origin.copy_(self.origin[order])
        self.masks.copy_(self.masks[:, order])
        self._refresh_used()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        masks = state_dict.get(prefix + "masks")
        if masks is not None and masks.dim() == 2 and masks.shape[1] == self.units:
            self.masks = self.masks.new_zeros(masks.shape)  # tasks are appended without limit
            state_dict.setdefault(prefix + "origin", torch.arange(self.units))  # of a version that moved no units
        super()._load_from_state_dict(state_dict, prefix, *args)
        with torch.no_grad():
            self._refresh_used()

    def extra_repr(self) -> str:
        return f"units={self.units}, tasks={self.tasks}"
