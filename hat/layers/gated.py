"""Layers whose output units are gated: what they have in common, and the linear one; see `hat.layers.convolutions`."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

import hat_kernels
from hat.layers.folding import folded_dtype, pays
from hat.layers.updaters import updater_of
from hat.units.gate import Gate, KnowsGates
from hat.units.sides import Use, sides_of, uses_of
from hat.units.state import LEARNING
from hat_kernels import GateForm
from hat_kernels.activation import check_activation
from hat_kernels.dropout.api import check_probability


class GatedLayer(KnowsGates):
    """What linear and convolutional layers have in common: an activation, dropout, a gate and the gate of their inputs.

    A layer that is told no input gate counts as a first layer: all incoming weights of a used unit are locked.

    Attributes:
        fed_unknown: it has inputs that no gate knows, whatever else it was told: it counts as a first layer.
        gated: it multiplies what it makes by the gate; otherwise something behind it does.
    """

    fed_unknown = False
    gated = True

    weight: Tensor
    bias: Any
    gate: Gate

    def _set_up(
        self,
        units: int,
        unit_dim: int,
        activation: str,
        dropout: float,
        gate: Gate | None,
        inputs: Gate | None,
    ) -> None:
        check_activation(activation)
        check_probability(dropout, "dropout")
        self.activation, self.dropout = activation, dropout
        self.gate = Gate(units, unit_dim=unit_dim) if gate is None else gate
        self.gate.to(self.weight.device)
        self.gate.attach(self, "weight", 0)
        if self.bias is not None:
            self.gate.attach(self, "bias", 0)
        if inputs is not None:
            self.connect(inputs)

    @classmethod
    def around(cls, plain: nn.Module, *, gate: Any = None, activation: str = "identity", dropout: float = 0.0) -> Any:
        """A layer with the parameters of a plain one, shared; nothing is wired.

        Args:
            plain: of the `torch.nn` class that this one derives from, itself.
            gate: multiplies what it makes, a `Gate` or what has its `form`; None: something behind it does.
            activation: a key of `hat_kernels.ACTIVATIONS`, applied before the gate.
            dropout: probability in [0, 1).
        """
        layer = cls.__new__(cls)
        layer.__dict__.update({name: copy(value) for name, value in vars(plain).items()})
        layer.activation, layer.dropout, layer.gated = activation, dropout, gate is not None
        layer.__dict__["gate"] = gate  # somebody else's module
        return layer

    def connect(self, inputs: Gate, *, repeat: int = 1) -> None:
        """Declare that the inputs of this layer are the units of `inputs`, each of them `repeat` inputs in a row.

        Several calls declare that the inputs are sums: a weight moves only where the units of all gates are free.

        Args:
            inputs: the gate of what comes in.
            repeat: the positions of a channel after a flatten, >= 1.

        Raises:
            ValueError: the number of inputs is not `repeat` times the number of units (two gates side by side, a
                concatenation, are no one's units: leave such a layer unconnected, it then locks whole rows).
        """
        groups = getattr(self, "groups", 1)
        got = self.weight.shape[1] * groups
        if got != inputs.units * repeat:
            raise ValueError(f"inputs: expected {inputs.units} units x {repeat}, got {got} inputs")
        inputs.attach(self, "weight", 1, repeat=repeat, groups=groups)

    @property
    def inputs(self) -> list[Gate]:
        """The gates whose units come in, as `Gate.attach` was told."""
        return list(dict.fromkeys(gate for gate, along in self._uses if along.dim == 1))

    @property
    def _uses(self) -> list[Use]:
        """The gates along which the weight lies, and how."""
        return uses_of(self._weight_gates).get((self, "weight"), [])

    def _frozen(self, weight: Tensor) -> tuple[int, int] | None:
        """The leading rows and columns of the weight that are locked where they meet; None unless a task is learned.

        None in compiled code too, which takes the numbers for constants: it would be compiled anew with every task.
        """
        if torch.compiler.is_compiling():
            return None
        gates = self._weight_gates
        if not gates or gates[0].state.answer is not LEARNING:
            return None
        locked = [gate.locked for gate in gates]
        if not any(locked):
            return 0, 0
        key = locked, weight.shape
        known, frozen = self.__dict__.get("_frozen_at", (None, (0, 0)))
        if known != key:  # a step asks for the numbers; the end of a task and units that join change them
            frozen = sides_of(self._uses, weight.shape).frozen(weight.shape)
            self.__dict__["_frozen_at"] = key, frozen
        return frozen

    def _folded(
        self, weight: Tensor, frozen: tuple[int, int] | None, form: GateForm | None, rows: int, pool: nn.Module | None
    ) -> tuple[Tensor, Tensor | None] | None:
        """The weight and bias that gate what they make, in training and where `GateConfig.fold` has it; see there.

        Evaluation is never folded: what a finished task answers has the same bits for good.

        Args:
            weight: `self.weight`, accessed once.
            frozen: of it, see `_frozen`.
            form: of the gate.
            rows: of activations, of all units each.
            pool: between the activation and the gate.
        """
        if form is None or form.embedding is None:
            return None
        choice = self.gate.state.config.fold
        if choice == "never":
            return None
        dtype = folded_dtype(weight, self.activation, pool, frozen)
        if dtype is None or not (choice == "always" or pays(weight, rows, pool, self.activation)):
            return None
        return hat_kernels.folded_weight(weight, self.bias, gate=form, dtype=dtype)

    @property
    def _form(self) -> GateForm | None:
        return self.gate.form() if self.gated else None


class HATLinear(GatedLayer, nn.Linear):
    """`y = a * dropout(activation(x W^T + b))`, Serrà et al. 2018, eq. 1.

    Args:
        in_features: K.
        out_features: N, the units of the gate.
        bias: learn an additive bias.
        activation: a key of `hat_kernels.ACTIVATIONS`.
        dropout: probability in [0, 1) of dropping an activation in training mode.
        gate: share this gate of N units instead of making one (a residual stream has one gate).
        inputs: the gate of the units that come in; see `connect`.
        factory: `device` and `dtype`, as of `torch.nn.Linear`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: str = "relu",
        dropout: float = 0.0,
        gate: Gate | None = None,
        inputs: Gate | None = None,
        **factory: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, **factory)
        self._set_up(out_features, -1, activation, dropout, gate, inputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] to [..., N]."""
        weight = self.weight  # once: a parametrization computes it, and may count how often
        updater = None if torch.compiler.is_compiling() else updater_of(weight)
        frozen, form, bias = self._frozen(weight), self._form, self.bias
        if updater is None:  # which needs the gradient of the weight itself
            folded = self._folded(weight, frozen, form, x.shape[:-1].numel(), None)
            if folded is not None:
                (weight, bias), frozen, form = folded, None, None
        return hat_kernels.gated_linear(
            x,
            weight,
            bias,
            frozen=frozen,
            update=None if updater is None else updater.update,
            activation=self.activation,
            dropout=self.dropout if self.training else 0.0,
            gate=form,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}, dropout={self.dropout}"
