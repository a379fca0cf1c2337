"""The plain module for every gated module, if the tasks are known.

Example: a `HATLinear(3, 2)` with ReLU, and a finished task with the mask [1, 0] becomes `Linear` and `ReLU` in a row.
Row 1 of the weight and element 1 of the bias are 0, because a ReLU keeps 0. Behind a sigmoid, which does not, the mask
becomes a module of its own (`hat.exporting.plain.Scale`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hat.conversion.fusion import ACTIVATIONS
from hat.conversion.tables import SharedParameter
from hat.exporting.errors import ExportError
from hat.exporting.norms import plain_norm
from hat.exporting.plain import Choice, Chosen, Constant, Factor, FusedAttention, Scale
from hat.layers.dropout import Dropout
from hat.layers.embedding import HATEmbedding
from hat.layers.folding import POOLS
from hat.layers.gated import GatedLayer
from hat.layers.gated_norm import GatedNorm
from hat.layers.stochastic_depth import StochasticDepth
from hat.layers.transposed import TransposedLinear
from hat.tracing.substitutes import DroppedAttention
from hat.units.composed import Gated, GatedAnywhere
from hat.units.gate import Gate
from hat.units.per_task import PerTask, PerTaskParameter
from hat.units.state import Finished, State

_HOMOGENEOUS = ("identity", "relu", "leaky_relu")
"""Activations that commute with every factor >= 0. Other activations that keep 0 commute only with 0 and 1."""
_MOVES_ZERO = ("sigmoid",)


class Exporter:
    """Makes plain modules of gated modules, for one or several tasks.

    Args:
        state: the state of the model.
        tasks: the ids of finished tasks, at least one.

    Attributes:
        chosen: says which of the tasks the exported network answers for.
    """

    def __init__(self, state: State, tasks: Sequence[int]) -> None:
        self.state, self.tasks, self.chosen = state, list(tasks), Chosen()
        self._made: dict[nn.Module, nn.Module] = {}
        self._parameters: dict[Tensor, nn.Parameter] = {}

    def plain(self, module: nn.Module) -> nn.Module:
        """A plain module in place of any module, which is not changed.

        A module of a class from outside this package is copied, with plain modules inside. A module that is used in
        several places becomes one plain module.

        Raises:
            ExportError: nobody knows what a module computes for one task.
        """
        if module not in self._made:
            self._made[module] = self._plain(module)
        return self._made[module]

    def _plain(self, module: nn.Module) -> nn.Module:
        for kind, make in _MAKES:
            if isinstance(module, kind):
                if not _is_known(module):
                    raise ExportError(f"{type(module).__name__}: nobody knows what its own forward computes")
                made: nn.Module = make(self, module)
                return made
        if isinstance(module, PerTask):
            raise ExportError(
                f"{type(module).__name__}: nobody knows what it computes for one task; write it with "
                "hat.PerTaskParameter"
            )
        copied = copy.copy(module)
        vars(copied).update({name: copy.copy(value) for name, value in vars(module).items() if isinstance(value, dict)})
        copied._parameters = {k: None if p is None else self.parameter(p) for k, p in module._parameters.items()}
        copied._buffers = {k: None if b is None else b.detach().clone() for k, b in module._buffers.items()}
        copied._modules = {k: None if m is None else self.plain(m) for k, m in module._modules.items()}
        return copied

    def parameter(self, values: Tensor) -> nn.Parameter:
        """A copy of a parameter: one copy for all places that use the parameter."""
        if values not in self._parameters:
            self._parameters[values] = nn.Parameter(_values(values), requires_grad=values.is_floating_point())
        return self._parameters[values]

    def head(self, head: nn.Module) -> nn.Module:
        """A copy of the head of a task, which can be trained again."""
        return self._bare(head)

    def choice(self, make: Callable[[], nn.Module]) -> nn.Module:
        """One module per task, each made by `make`; a single module if it is the same for all tasks."""
        modules = []
        for task in self.tasks:
            with self.state.answering(Finished(task)):
                modules.append(make())
        first, *others = modules
        return first if all(_equal(first, module) for module in others) else Choice(modules, self.chosen)

    # -- layers ---------------------------------------------------------------------------------------------------

    def layer(self, layer: Any) -> nn.Module:
        """A linear layer or convolution, its activation, its pool, and its mask if the weights cannot take the mask."""
        plain = self._bare(layer)
        pool = getattr(layer, "pool", None)
        parts = [plain]
        if layer.activation != "identity":
            parts.append(ACTIVATIONS[layer.activation]())
        if pool is not None:
            parts.append(copy.deepcopy(pool))
        mask = self._only_mask(layer.gate) if layer.gated else None
        if mask is not None and _goes_in(mask, layer.activation, pool):
            _scale_rows(plain, mask)
        elif layer.gated:
            parts.append(self.scale(layer.gate, -1 if isinstance(layer, nn.Linear) else 1))
        return _sequence(parts)

    def scale(self, gate: Any, unit_dim: int) -> nn.Module:
        """The mask of a gate as a module."""

        def make() -> nn.Module:
            mask = _mask_of(gate)
            return nn.Identity() if bool((mask == 1).all()) else Scale(mask.clone(), unit_dim)

        return self.choice(make)

    def _only_mask(self, gate: Any) -> Tensor | None:
        """The mask of the tasks if it is the same for all tasks, else None."""
        masks = []
        for task in self.tasks:
            with self.state.answering(Finished(task)):
                masks.append(_mask_of(gate))
        first, *others = masks
        return first if all(torch.equal(first, mask) for mask in others) else None

    def _bare(self, layer: Any) -> nn.Module:
        """A layer of the `torch.nn` class that a gated layer derives from, with copies of the parameters."""
        kind: Any = next(cls for cls in type(layer).__mro__ if cls.__module__.startswith("torch.nn.modules"))
        plain: Any = kind.__new__(kind)
        nn.Module.__init__(plain)
        hidden = ("activation", "dropout", "pool", "gate", "gated", "fed_unknown")
        state = {name: value for name, value in vars(layer).items() if not name.startswith("_") and name not in hidden}
        plain.__dict__.update({name: copy.copy(value) for name, value in state.items()})
        if hasattr(layer, "_reversed_padding_repeated_twice"):
            plain._reversed_padding_repeated_twice = list(layer._reversed_padding_repeated_twice)
        plain.weight = self.parameter(layer.weight)
        plain.register_parameter("bias", None if layer.bias is None else self.parameter(layer.bias))
        return plain

    def gated(self, module: Gated) -> nn.Module:
        return _sequence([ACTIVATIONS[module.activation](), self.scale(module.gate, module.unit_dim)])

    def gate(self, gate: Gate) -> nn.Module:
        return self.scale(gate, gate.unit_dim)

    def anywhere(self, module: GatedAnywhere) -> nn.Module:
        def make() -> nn.Module:
            masks = [_mask_of(gate) for gate in module.gates]
            factor = torch.cat([*masks, masks[0].new_ones(1)])[module.index.to(masks[0].device)]
            return nn.Identity() if bool((factor == 1).all()) else Factor(factor)

        return self.choice(make)

    def norm(self, norm: GatedNorm) -> nn.Module:
        return self.choice(lambda: plain_norm(norm, ACTIVATIONS))

    def per_task(self, module: PerTaskParameter) -> nn.Module:
        return self.choice(lambda: Constant(nn.Parameter(_values(module.of_task("value")))))

    def shared(self, module: SharedParameter) -> nn.Module:
        same = module.weight.shape == module.shape
        return Constant(self.parameter(module.weight) if same else nn.Parameter(_values(module())))

    def embedding(self, module: HATEmbedding) -> nn.Module:
        rows, units = module.weight.shape
        table = nn.Embedding(rows, units, module.padding_idx)
        table.weight = self.parameter(module.weight)
        return _sequence([table, self.scale(module.gate, -1)])

    def transposed(self, module: TransposedLinear) -> nn.Module:
        linear = module.plain()
        linear.weight = nn.Parameter(_values(module.weight.t()))
        linear.register_parameter("bias", None if module.bias is None else self.parameter(module.bias))
        return linear

    def dropped(self, module: DroppedAttention) -> nn.Module:
        return FusedAttention(module.p)

    def nothing(self, module: nn.Module) -> nn.Module:
        """For modules that do something in training only."""
        return nn.Identity()


_MAKES: tuple[tuple[type[nn.Module], Callable[[Exporter, Any], nn.Module]], ...] = (
    (DroppedAttention, Exporter.dropped),
    (HATEmbedding, Exporter.embedding),
    (TransposedLinear, Exporter.transposed),
    (GatedLayer, Exporter.layer),
    (GatedNorm, Exporter.norm),
    (GatedAnywhere, Exporter.anywhere),
    (Gated, Exporter.gated),
    (Gate, Exporter.gate),
    (SharedParameter, Exporter.shared),
    (PerTaskParameter, Exporter.per_task),
    (Dropout, Exporter.nothing),
    (StochasticDepth, Exporter.nothing),
)


def _goes_in(mask: Tensor, activation: str, pool: nn.Module | None) -> bool:
    """Whether the mask may multiply the weights instead of the result of activation and pool.

    The activation and the pool must keep 0. If the mask has values other than 0 and 1, the activation must also commute
    with a factor.
    """
    if bool((mask == 1).all()):
        return True
    if activation in _MOVES_ZERO or not (pool is None or _keeps_zero(pool)):
        return False
    return activation in _HOMOGENEOUS or bool(((mask == 0) | (mask == 1)).all())


def _keeps_zero(pool: nn.Module) -> bool:
    return type(pool) in POOLS


def _scale_rows(plain: Any, mask: Tensor) -> None:
    """Multiply the rows of a layer by the mask. The old parameters stay, because other layers may share them."""
    if bool((mask == 1).all()):
        return
    weight = plain.weight.detach()
    plain.weight = nn.Parameter(_masked(weight, mask.view(-1, *(1,) * (weight.dim() - 1))))
    if plain.bias is not None:
        plain.bias = nn.Parameter(_masked(plain.bias.detach(), mask))


def _sequence(parts: Sequence[nn.Module]) -> nn.Module:
    """The modules in a row. Modules that do nothing are left out."""
    active = [part for part in parts if not isinstance(part, nn.Identity)]
    if len(active) == 1:
        return active[0]
    return nn.Sequential(*active) if active else nn.Identity()


def _is_known(module: nn.Module) -> bool:
    """Whether the forward of a module is defined by a class of this package or of torch."""
    owner = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    return owner.__module__.partition(".")[0] in ("hat", "torch")


def _mask_of(gate: Any) -> Tensor:
    """The mask of the task that the gate answers for."""
    mask: Tensor = gate.form().mask
    return mask.detach()


def _values(values: Tensor) -> Tensor:
    return values.detach().clone().contiguous()


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    """The values times the mask, in the dtype of the values. The product is exactly 0 where the mask is 0."""
    return _values(torch.where(mask == 0, 0.0, values * mask).to(values.dtype))


def _equal(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules compute the same function: same settings, and equal tensors."""
    a, b = first.state_dict(), second.state_dict()
    return repr(first) == repr(second) and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
