"""The gate: an axis of units, the parameters that lie along the axis, and the units that finished tasks use.

Example: a gate of 4 units in mode `binary`.

    embedding e of task 0  [2.1, -0.7, 0.3, -3.0]
    a while it is learned  sigmoid(s e): all near 0.5 at s = 1 / 400, almost 0 or 1 at s = 400
    masks after `commit`   [[1, 0, 1, 0]]          e > 0
    used, free             [1, 0, 1, 0], [0, 1, 0, 1]
    locked, in_order       1, False                one used unit at the front, and another one behind a free unit
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import hat_kernels
from hat.arguments import check_arguments, check_whole, got
from hat.units.along import Along
from hat.units.blocks import Side
from hat.units.change import Change
from hat.units.state import LEARNING, OPEN, PLAIN, Finished, Float32Module, State
from hat_kernels import GateForm


class Gate(Float32Module):
    """Hard attention over one axis of units: `a = sigmoid(s e)`, Serrà et al. 2018, eq. 1.

    As a module, a gate multiplies its input by `a`. All code that locks, counts or moves units is a loop over
    `members`.

    Args:
        units: the number of units, > 0.
        unit_dim: the dimension of the activations that holds the units: -1 for (..., N), 1 for (B, N, ...).
        segments: [units] int64, see below.

    Raises:
        TypeError, ValueError: there is no unit, `segments` is not int64 of shape [units], or a type is wrong.

    Attributes:
        embedding: [units] float32 parameter, the `e` of the current task.
        masks: [T, units] float32 buffer, the committed gate of every finished task.
        origin: [units] int64 buffer, the place of each unit before units were moved for the first time.
        used: [units] float32, the maximum of `masks` and `reserved`; updated by a load and by `commit`.
        free: [units] float32, `1 - used`; stored, so that the tensor that locks a weight keeps its address.
        locked: how many units at the front are used, in mode `binary`; 0 in mode `published`, where all units move a
            little.
        in_order: all units behind the locked ones are free.
        members: the parameters along the axis, see `Along`.
        reserved: [units] float32 buffer, 1 for a unit that was used before the first task, by what a pretrained network
            was trained for. No mask has this unit, but its weights are locked.
        segments: units change places only with units that have the same number here, for example the dimensions of one
            head of attention. None: with all other units, except those in another group of a convolution. The numbers
            stay on the CPU and keep their values, also if the gate goes to the meta device.
        keeps_places: the units are not moved, because the user has frozen a parameter along the axis.
        complete: `members` are all parameters that meet the units, so that the units may be moved. `hat.convert` knows
            this of its gates. Set it if you wire layers by hand.
    """

    masks: Tensor
    origin: Tensor
    used: Tensor
    free: Tensor
    reserved: Tensor
    state: State

    def __init__(self, units: int, *, unit_dim: int = -1, segments: Tensor | None = None) -> None:
        super().__init__()
        check_arguments(Gate, locals())
        check_whole("units", int(units), least=1)
        if segments is not None and (segments.dtype != torch.int64 or segments.shape != (units,)):
            kind = f"{segments.dtype} of {tuple(segments.shape)}"
            raise ValueError(f"segments: expected torch.int64 of ({units},), got {kind}")
        self.units, self.unit_dim = units, unit_dim
        self.members: list[Along] = []
        self.complete = self.keeps_places = False
        self.locked, self.in_order, self._reserves = 0, True, False
        self.embedding = nn.Parameter(torch.randn(units, dtype=torch.float32))
        self.register_buffer("masks", torch.zeros(0, units, dtype=torch.float32))
        self.register_buffer("origin", torch.arange(units))
        self.register_buffer("reserved", torch.zeros(units, dtype=torch.float32))
        self.segments = None if segments is None else segments.cpu()
        self.register_buffer("used", torch.zeros(units, dtype=torch.float32), persistent=False)
        self.register_buffer("free", torch.ones(units, dtype=torch.float32), persistent=False)
        self.share(State())

    def share(self, state: State) -> None:
        """Follow the scale and the answer of `state`. The owner of `state` keeps it in its own `state_dict`."""
        check_arguments(Gate.share, locals())
        self.__dict__["state"] = state  # not a submodule: one state, many gates
        self._count_locked()

    def attach(
        self,
        module: nn.Module,
        name: str,
        dim: int,
        *,
        repeat: int = 1,
        groups: int = 1,
        places: Tensor | None = None,
        table: bool = False,
    ) -> None:
        """Declare that dimension `dim` of `module.name` lies along this axis; see `Along`.

        Args:
            module: the module that owns the parameter.
            name: the name of the parameter in that module.
            dim: the dimension of the parameter.
            repeat: how many consecutive indices belong to one unit, >= 1.
            groups: the number of groups, if a grouped convolution reads the units.
            places: [units * repeat] int64, the indices of the units; None: all indices in order.
            table: the module answers with rows of the parameter.

        Raises:
            TypeError: an argument is of another class than annotated; a number, text or switch is a `ValueError`.
            ValueError: the module has no parameter of this name, or the parameter has no such dimension; the length of
                the dimension is not `units * repeat / groups`; or `places` has another length than `units * repeat`, or
                an index that is too large.
        """
        check_arguments(Gate.attach, locals())
        check_whole("repeat", int(repeat), least=1)
        check_whole("groups", int(groups), least=1)
        member = Along(module, name, dim, repeat, groups, places, table)
        parameter = getattr(module, name, self)
        if not isinstance(parameter, Tensor | None):
            raise ValueError(f"name: expected a parameter of {type(module).__name__}, got {got(name)}")
        if parameter is not None:
            if not 0 <= dim < parameter.dim():
                raise ValueError(f"dim: expected a dimension of {name} {tuple(parameter.shape)}, got {dim}")
            length = parameter.shape[dim] * (groups if dim else 1)
            fits = length == self.units * repeat
            if places is not None:
                if places.dtype != torch.int64 or places.shape != (self.units * repeat,) or places.is_meta:
                    raise ValueError(f"places: expected torch.int64 of ({self.units * repeat},), got {got(places)}")
                fits = 0 <= int(places.min()) <= int(places.max()) < length
            if not fits:
                expected = f"{self.units} units x {repeat}"
                raise ValueError(f"{name}: expected {expected} along dimension {dim}, got {tuple(parameter.shape)}")
        self.members.append(member)
        if isinstance(module, KnowsGates) and name == "weight" and self not in module._weight_gates:
            module._weight_gates += (self,)

    def replace(self, member: Along, by: Along) -> None:
        """Put the member `by` in the place of `member`."""
        check_arguments(Gate.replace, locals())
        self.members[:] = [by if old is member else old for old in self.members]

    def reads(self, module: nn.Module) -> bool:
        """Whether a module takes units of this gate as inputs."""
        check_arguments(Gate.reads, locals())
        return any(member.module is module and not member.produces for member in self.members)

    @property
    def tasks(self) -> int:
        """How many tasks have committed a mask."""
        return self.masks.shape[0]

    def side(self, repeat: int = 1) -> Side:
        """The units along one dimension of a parameter, each unit `repeat` times in a row."""
        check_whole("repeat", repeat, least=1)
        return Side(self.free, repeat, self.locked, self.in_order)

    def identity(self) -> Iterator[int]:
        """Numbers that change whenever the lock of a parameter along this axis may have changed."""
        yield self.locked
        yield self.in_order
        yield id(self.free)
        yield self.free._version
        for member in self.members:
            yield id(member.parameter)

    def hardened(self) -> Tensor:
        """[units] the mask that `commit` would store now.

        In mode `binary` `e > 0`; in mode `published` `sigmoid(s_max e)`, with values below `GATE_FLOOR` set to 0.
        """
        with torch.no_grad():
            if self.state.config.mask_mode == "binary":
                return (self.embedding > 0).to(torch.float32)
            soft = torch.sigmoid(self.state.config.s_max * self.embedding)
            return torch.where(soft < hat_kernels.GATE_FLOOR, 0.0, soft)

    def form(self) -> GateForm | None:
        """The gate as the operations of `hat_kernels` take it, for the present `state.answer`; None: the gate is open.

        While a task is learned, the form is the soft gate in training mode and `hardened()` in evaluation mode. So
        validation sees the mask that will be committed.
        """
        answer = self.state.answer
        if answer is LEARNING:
            if not self.training:
                return GateForm(mask=self.hardened())
            config = self.state.config
            return GateForm(
                embedding=self.embedding,
                scale=self.state.scale,
                s_max=config.s_max,
                compensation=config.compensation,
            )
        if isinstance(answer, Finished):
            return GateForm(mask=self.masks[answer.task])
        return None if answer is OPEN or answer is PLAIN else GateForm(mask=self.masks, task=answer.tasks)

    def forward(self, x: Tensor) -> Tensor:
        """`x * a` along `unit_dim`; same shape and dtype."""
        return hat_kernels.gated_activation(x, activation="identity", gate=self.form(), unit_dim=self.unit_dim)

    @torch.no_grad()
    def begin_task(self) -> None:
        """Draw a new embedding, in place. The value of a unit does not depend on the place that it was moved to."""
        self.embedding.copy_(self.draw()[self.origin])
        self.state.edits += 1

    @torch.no_grad()
    def draw(self) -> Tensor:
        """[units] float32, first values of an embedding: N(0, 1), or U(0, 2) with `GateConfig(init="uniform")`."""
        drawn = self.embedding.new_empty(self.units)
        return drawn.normal_() if self.state.config.init == "normal" else drawn.uniform_(0, 2)

    @torch.no_grad()
    def commit(self) -> None:
        """Append the mask of the current task to `masks`; from now on its units are used."""
        self.masks = torch.cat([self.masks, self.hardened()[None]])
        self._refresh_used()

    @torch.no_grad()
    def forget(self, task: int) -> None:
        """Set the mask of a task to 0, so that the task uses no unit."""
        check_whole("task", task, least=0)
        if task >= self.tasks:
            raise ValueError(f"task: expected less than {self.tasks}, got {got(task)}")
        self.masks[task] = 0
        self._refresh_used()

    @property
    def reserves(self) -> bool:
        """Some unit was used before the first task."""
        return self._reserves

    @torch.no_grad()
    def reserve(self) -> None:
        """Count every unit as used before the first task."""
        self.reserved.fill_(1)
        self._refresh_used()

    def _refresh_used(self) -> None:
        self.state.edits += 1
        device = self.reserved.device if self.reserved.is_meta else self.masks.device
        if self.used.device != device:  # a load has assigned tensors of another device
            self.used, self.free = (
                self.used.new_zeros(self.units, device=device),
                self.used.new_ones(self.units, device=device),
            )
        if self.used.is_meta:
            return
        self._reserves = not self.reserved.is_meta and bool(self.reserved.any())
        self.used.copy_(self.reserved)
        if self.tasks:
            torch.maximum(self.used, self.masks.amax(0), out=self.used)
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
    def rearrange(self, change: Change) -> None:
        """Let units change places, go or join, in the buffers of the gate. The caller changes the parameters.

        In `origin`, units that stay keep their order, and units that join come after all others.

        Args:
            change: the change of dimension 0 of a tensor [units].
        """
        check_arguments(Gate.rearrange, locals())
        places, joined = (index[0].to(self.used.device) for index in (change.places, change.joined))
        ranks = torch.where(joined, self.units + joined.cumsum(0), self.origin[places])
        self._keep("origin", ranks.argsort().argsort())
        self._keep("masks", self.masks[:, places].masked_fill(joined, 0))
        self._keep("reserved", self.reserved[places].masked_fill(joined, 0))
        if self.segments is not None:
            self.segments = self.segments[places.cpu()]
        if len(places) != self.units:
            self.units, self.used, self.free = len(places), self.used[places], self.free[places]
        self._refresh_used()

    def _keep(self, name: str, values: Tensor) -> None:
        """Give a buffer new values. If the shape stays, the buffer keeps its address."""
        buffer = getattr(self, name)
        if buffer.shape == values.shape:
            buffer.copy_(values)
        else:
            setattr(self, name, values)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        masks = state_dict.get(prefix + "masks")
        if masks is not None and masks.dim() == 2 and masks.shape[1] == self.units:
            self.masks = self.masks.new_zeros(masks.shape)  # the file may hold more or fewer tasks
        super()._load_from_state_dict(state_dict, prefix, *args)
        with torch.no_grad():
            self._refresh_used()

    def extra_repr(self) -> str:
        return f"units={self.units}, tasks={self.tasks}"


class KnowsGates(nn.Module):
    """A layer that remembers which gates its weight lies along, because every step asks for them.

    For all other modules, only the gates know which parameters lie along them. So a user's own module holds no
    reference to a gate.
    """

    _weight_gates: tuple[Gate, ...] = ()
