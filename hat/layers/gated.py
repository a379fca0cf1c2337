"""Layers whose output units are gated: the common base class, and the linear layer; see also `hat.layers.convolutions`.

Example: two layers, wired by hand.

    first = HATLinear(784, 100)                       makes its own gate of 100 units
    second = HATLinear(100, 50, inputs=first.gate)    the inputs of `second` are units of first.gate

The weight of `second` [50, 100] lies along second.gate by its rows and along first.gate by its columns, so weight
(i, j) is locked if a finished task uses both units. The weight of `first` has no input gate, so whole rows are locked.
"""

from __future__ import annotations

from copy import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import hat_kernels
from hat.arguments import check_arguments, check_type, check_whole, got
from hat.layers.folding import folded_dtype, pays
from hat.layers.updaters import update_of
from hat.units.gate import Gate, KnowsGates
from hat.units.sides import Use, sides_of, uses_of
from hat.units.state import LEARNING
from hat_kernels import GateForm
from hat_kernels.activation import check_activation
from hat_kernels.dropout.api import check_probability


class GatedLayer(KnowsGates):
    """The common part of linear and convolutional layers: an activation, dropout, a gate and the gate of the inputs.

    A layer without an input gate counts as a first layer: all incoming weights of a used unit are locked.

    Attributes:
        fed_unknown: the layer has inputs that no gate knows. It counts as a first layer, even if it has an input gate.
        gated: the layer multiplies its result by the gate. Otherwise a module behind the layer does.
    """

    fed_unknown = False
    gated = True
    plain: ClassVar[type[nn.Module]]
    """The class of `torch.nn` that this class derives from."""

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
        self.activation, self.dropout = activation, float(dropout)
        self.gate = Gate(units, unit_dim=unit_dim) if gate is None else gate
        self.gate.to(self.weight.device)
        self.gate.attach(self, "weight", 0)
        if self.bias is not None:
            self.gate.attach(self, "bias", 0)
        if inputs is not None:
            self.connect(inputs)

    @classmethod
    def around(cls, plain: nn.Module, *, gate: Any = None, activation: str = "identity", dropout: float = 0.0) -> Any:
        """A gated layer that shares the parameters of a plain layer. The parameters are not attached to any gate.

        Args:
            plain: a layer of exactly the `torch.nn` class that this class derives from.
            gate: multiplies the result of the layer: a `Gate`, or an object with `form` as a `Gate` has it. None: a
                module behind the layer multiplies the result.
            activation: a key of `hat_kernels.ACTIVATIONS`, applied before the gate.
            dropout: probability in [0, 1) of dropping an activation in training mode.

        Raises:
            TypeError, ValueError: an argument is not as above.
        """
        check_options(activation, dropout)
        check_arguments(GatedLayer.around, locals())
        check_type("plain", plain, cls.plain, f"a torch.nn.{cls.plain.__name__}")
        if gate is not None and not hasattr(gate, "form"):
            raise TypeError(f"gate: expected a hat.Gate or None, got {got(gate)}")
        layer = cls.__new__(cls)
        layer.__dict__.update({name: copy(value) for name, value in vars(plain).items()})
        layer.activation, layer.dropout, layer.gated = activation, float(dropout), gate is not None
        layer.__dict__["gate"] = gate  # not a submodule of this layer
        return layer

    def connect(self, inputs: Gate, *, repeat: int = 1) -> None:
        """Declare that the inputs of this layer are the units of `inputs`, each unit `repeat` inputs in a row.

        Call this several times if the inputs are sums of units of several gates. An input is then as free as the least
        free of its units.

        Do not connect a layer whose inputs are a concatenation of several gates. Such a layer locks whole rows.

        Args:
            inputs: the gate of the inputs.
            repeat: the number of inputs per unit, >= 1: after a flatten, the number of positions of a channel.

        Raises:
            ValueError: the number of inputs is not `repeat` times the number of units.
        """
        check_arguments(GatedLayer.connect, locals())
        groups = getattr(self, "groups", 1)
        width = self.weight.shape[1] * groups
        if width != inputs.units * repeat:
            raise ValueError(f"inputs: expected {inputs.units} units x {repeat}, got {width} inputs")
        inputs.attach(self, "weight", 1, repeat=repeat, groups=groups)

    @property
    def inputs(self) -> list[Gate]:
        """The gates whose units are inputs of this layer, in the order in which they were attached."""
        return list(dict.fromkeys(gate for gate, along in self._uses if along.dim == 1))

    @property
    def _uses(self) -> list[Use]:
        """The gates along which the weight lies, and the dimension of each."""
        return uses_of(self._weight_gates).get((self, "weight"), [])

    def _frozen(self, weight: Tensor) -> tuple[int, int] | None:
        """The leading rows and columns of the weight that are locked where they meet; None unless a task is learned.

        In compiled code the answer is None too. A compiler takes the numbers for constants, and would compile again
        after every task.
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
        last_key, frozen = self.__dict__.get("_frozen_at", (None, (0, 0)))
        if last_key != key:  # every step asks for the numbers, but they change only when a task ends or units join
            frozen = sides_of(self._uses, weight.shape).frozen(weight.shape)
            self.__dict__["_frozen_at"] = key, frozen
        return frozen

    def _folded(
        self, weight: Tensor, frozen: tuple[int, int] | None, form: GateForm | None, rows: int, pool: nn.Module | None
    ) -> tuple[Tensor, Tensor | None] | None:
        """The weight and bias times the gate, in training, if `GateConfig.fold` asks for it; else None.

        Evaluation is never folded, so that the answers of a finished task keep their bits.

        Args:
            weight: `self.weight`, which the caller has read once.
            frozen: the locked rows and columns of the weight, see `_frozen`.
            form: the form of the gate.
            rows: the number of rows of activations.
            pool: the pool between the activation and the gate, or None.
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
        in_features: K, the number of inputs.
        out_features: N, the number of outputs, which are the units of the gate.
        bias: learn an additive bias.
        activation: a key of `hat_kernels.ACTIVATIONS`.
        dropout: probability in [0, 1) of dropping an activation in training mode.
        gate: use this gate of N units, which other layers may share (a residual stream has one gate); by default the
            layer makes a gate.
        inputs: the gate of the inputs; see `connect`.
        factory: `device` and `dtype`, the same as for `torch.nn.Linear`.

    Raises:
        TypeError: an argument is of another class than annotated; a number, text or switch is a `ValueError`.
        ValueError: a number, `activation` or `dropout` is out of range, or a gate has another number of units.
    """

    plain = nn.Linear

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
        check_options(activation, dropout)
        check_arguments(HATLinear, locals())
        check_whole("in_features", int(in_features), least=0)
        check_whole("out_features", int(out_features), least=1)
        super().__init__(in_features, out_features, bias, **factory)
        self._set_up(out_features, -1, activation, dropout, gate, inputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] to [..., N]."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x: expected a tensor of shape (..., {self.in_features}), got {got(x)}")
        weight = self.weight  # read only once: a parametrization may compute the weight, and may count the reads
        update = None if torch.compiler.is_compiling() else update_of(weight)
        frozen, form, bias = self._frozen(weight), self._form, self.bias
        if update is None:  # an update needs the gradient of the weight itself, not of a folded weight
            folded = self._folded(weight, frozen, form, x.shape[:-1].numel(), None)
            if folded is not None:
                (weight, bias), frozen, form = folded, None, None
        return hat_kernels.gated_linear(
            x,
            weight,
            bias,
            frozen=frozen,
            update=update,
            activation=self.activation,
            dropout=self.dropout if self.training else 0.0,
            gate=form,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}, dropout={self.dropout}"


def check_options(activation: str, dropout: float) -> None:
    """Check the options that all gated layers have.

    Raises:
        ValueError: there is no such activation, or `dropout` is not in [0, 1).
    """
    check_activation(activation)
    check_probability(dropout, "dropout")


def check_same_kind(x: Tensor, weight: Tensor) -> None:
    """Check that an input has the device and, outside of autocast, the dtype of a weight.

    Raises:
        ValueError: the device differs.
        TypeError: the dtype differs.
    """
    if x.device != weight.device:
        raise ValueError(f"x: expected a tensor on {weight.device}, got one on {x.device}")
    if x.dtype != weight.dtype and not (
        x.is_floating_point() and not x.is_meta and torch.is_autocast_enabled(x.device.type)
    ):
        raise TypeError(f"x: expected {weight.dtype}, got {x.dtype}")
