"""The common part of the norms of `hat.layers.norms`: a per-task affine part, per-task statistics, and a gate."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import hat_kernels
from hat.arguments import check_arguments, check_whole, got
from hat.layers.folding import folds_affine
from hat.units.gate import Gate
from hat.units.per_task import PerTask
from hat.units.state import PerSample
from hat_kernels import GateForm
from hat_kernels.activation import check_activation


class GatedNorm(PerTask):
    """`y = a * activation(norm(x) w + b)`. Every task has its own w, b and running statistics.

    A norm switches a unit that is off on again, so the gate comes behind the norm. If the function is the same, the
    gate goes into the affine part, `norm(x) (a w) + a b`, and costs nothing.

    A layer norm computes its statistics over all units. Units that are off must be 0 in its inputs. Otherwise the
    statistics of a finished task would depend on units that later tasks change.

    Args:
        shape: the positional arguments of the `torch.nn` layer.
        gate: the gate of the units of the result: a `hat.Gate`, or an object with `units`, `state` and `form` as a
            `hat.Gate` has them. It is applied even if the inputs are gated already. None: no gate.
        activation: a key of `hat_kernels.ACTIVATIONS`.
        norm: the keyword arguments of the `torch.nn` layer.

    Raises:
        TypeError: an argument is of another class than annotated, or than in the `torch.nn` layer.
        ValueError: a number is out of range, the gate has another number of units, or the norm has a gate and is over
            several dimensions.
    """

    plain: ClassVar[type[nn.Module]]
    options: ClassVar[tuple[str, ...]]
    unit_dim: ClassVar[int] = 1

    weight: Tensor | None
    bias: Tensor | None
    gate: Any
    eps: Any
    count: Tensor
    count_initial: Tensor
    count_tasks: Tensor

    def __init__(self, *shape: Any, gate: Any = None, activation: str = "identity", **norm: Any) -> None:
        super().__init__()
        self._check_options(shape, norm)
        self._adopt(self.plain(*shape, **norm), gate, activation)

    @classmethod
    def from_plain(cls, norm: nn.Module, *, gate: Any = None, activation: str = "identity") -> GatedNorm:
        """Make a gated norm of a `torch.nn` layer.

        Every task starts from the values of that layer, and `name_initial` shares their memory. The gated norm has the
        mode of the layer, training or evaluation.

        Args:
            norm: a layer of the `torch.nn` class that this class is named after.
            gate: see the class.
            activation: see the class.

        Raises:
            TypeError: `norm` is of another class, or of a derived class with a forward of its own.
        """
        kind, expected = type(norm).__name__, cls.plain.__name__
        if isinstance(norm, nn.SyncBatchNorm):
            raise TypeError(f"norm: expected {expected}, got {kind}, which shares its statistics between processes")
        if not isinstance(norm, cls.plain) or type(norm).forward is not cls.plain.forward:
            raise TypeError(f"norm: expected {expected}, got {kind}")
        made = cls.__new__(cls)
        PerTask.__init__(made)
        made._adopt(norm, gate, activation)
        return made

    def _check_options(self, shape: tuple[Any, ...], norm: dict[str, Any]) -> None:
        """Check the arguments of the `torch.nn` layer."""
        try:
            options = inspect.signature(self.plain).bind(*shape, **norm).arguments
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        check_arguments(self.plain, options)
        for name in ("num_features", "num_groups", "num_channels"):
            check_whole(name, int(options.get(name, 1)), least=1)
        lengths = options.get("normalized_shape", 1)
        for length in lengths if isinstance(lengths, Sequence) else (lengths,):
            check_whole("normalized_shape", int(length), least=1)
        if options.get("num_channels", 0) % options.get("num_groups", 1):
            groups, channels = options["num_groups"], options["num_channels"]
            raise ValueError(f"num_channels: expected a multiple of {groups} groups, got {channels}")

    def _adopt(self, plain: nn.Module, gate: Any, activation: str) -> None:
        check_activation(activation)
        self.activation, self.gate = activation, None
        for name in self.options:
            setattr(self, name, getattr(plain, name))
        for name in ("weight", "bias"):
            self._keep(name, getattr(plain, name, None), learned=True)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self._keep(name, getattr(plain, name, None), learned=False)
        self.train(plain.training)
        if gate is not None:
            self.connect(gate)

    @property
    def units(self) -> int | None:
        """The number of units that are normalised; None if the norm is over several dimensions."""
        raise NotImplementedError

    def connect(self, gate: Any) -> None:
        """Put a gate behind the norm.

        Args:
            gate: see the class.

        Raises:
            ValueError: the gate has another number of units, or the norm is over several dimensions.
        """
        if not all(hasattr(gate, name) for name in ("units", "state", "form")):
            raise TypeError(f"gate: expected a hat.Gate, got {got(gate)}")
        if self.units != gate.units:
            expected = "none for a norm over several dimensions" if self.units is None else f"one of {self.units} units"
            raise ValueError(f"gate: expected {expected}, got {gate.units} units")
        self.gate = gate
        self.share(gate.state)
        if isinstance(gate, Gate):
            for _, values in self.current():
                gate.to(values.device)
            for name in ("weight", "bias", "running_mean", "running_var"):
                gate.attach(self, name, 0)

    def forward(self, x: Tensor) -> Tensor:
        """The result has the shape and dtype of x.

        Raises:
            TypeError: `x` is not a tensor, or its dtype does not go with that of the weight.
            ValueError: `x` has another shape than the norm is for, or another device.
        """
        weight, bias = self.of_task("weight"), self.of_task("bias")
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.is_sparse:
            raise TypeError(f"x: expected a dense floating tensor, got {got(x)}")
        if weight is not None and (x.dtype != weight.dtype or x.device != weight.device):
            _check_kind(x, weight)
        form: GateForm | None = None if self.gate is None else self.gate.form()
        if weight is not None and form is not None and self._folds(x, weight, form):
            (weight, bias), form = _folded(weight, bias, form), None
        y = (self._mixed if isinstance(self.state.answer, PerSample) else self._normalised)(x, weight, bias)
        if form is None and self.activation == "identity":
            return y
        return hat_kernels.gated_activation(
            y,
            activation=self.activation,
            gate=form,
            unit_dim=self.unit_dim,
            overwrite=True,  # the backward pass of a norm needs its input, not its result
        )

    def _folds(self, x: Tensor, weight: Tensor, form: GateForm) -> bool:
        """Whether the gate goes into the affine part."""
        if self.gate.state.config.fold == "never":
            return False
        return folds_affine(x, weight, self.activation, soft=form.embedding is not None)

    def keep_count(self, before: int, now: int, tasks: int) -> None:
        """Remember the number of units that every finished task was learned with, because units have gone or joined.

        Finished tasks go on as if there were as many units as then. A norm that normalises every unit by itself does
        nothing here.

        Args:
            before: the number of units before.
            now: the number of units now.
            tasks: the number of finished tasks.
        """
        check_arguments(GatedNorm.keep_count, locals())

    @property
    def _counts(self) -> bool:
        """The present task is finished, and may have been learned with another number of units than there is now."""
        return "count" in self.kept and not self.is_learning

    def _keep_count(self, before: int, now: int, tasks: int) -> None:
        check_arguments(GatedNorm.keep_count, locals())
        check_whole("tasks", int(tasks), least=0)
        if "count" not in self.kept:
            device = next((values.device for _, values in self.current()), None)
            self._keep("count", torch.tensor(before, device=device), learned=False)
            self.count_tasks = self.count.new_full((tasks,), before)
        if now > before:
            self.count_initial.fill_(now)
            self.count.fill_(now)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}count" in state_dict and "count" not in self.kept:
            self._keep("count", torch.zeros((), dtype=torch.int64), learned=False)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _normalised(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _mixed(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """The norm if every sample has a task; weight and bias are [B, ...]."""
        y = self._normalised(x, None, None)
        return y if weight is None else self._scaled(y, weight, bias)

    def _scaled(self, x: Tensor, scale: Tensor, shift: Tensor | None) -> Tensor:
        """`x * scale + shift` for every sample, computed in float32 at least, in one pass."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = self._spread(scale, x).to(wide.dtype)
        y = wide * scale if shift is None else torch.addcmul(self._spread(shift, x).to(wide.dtype), wide, scale)
        return y.to(x.dtype)

    def _spread(self, values: Tensor, x: Tensor) -> Tensor:
        """A view of values [B, ...] that broadcasts with x."""
        ones = [1] * (x.dim() - values.dim())
        before, after = ([], ones) if self.unit_dim == 1 else (ones, [])
        return values.view(len(values), *before, *values.shape[1:], *after)

    def extra_repr(self) -> str:
        options = [f"{name}={getattr(self, name)}" for name in self.options]
        return ", ".join([*options, f"activation={self.activation}"])


def _check_kind(x: Tensor, weight: Tensor) -> None:
    if x.device != weight.device:
        raise ValueError(f"x: expected a tensor on {weight.device}, got one on {x.device}")
    if torch.promote_types(x.dtype, weight.dtype) != weight.dtype:
        raise TypeError(f"x: expected {weight.dtype}, got {x.dtype}")


def _folded(weight: Tensor, bias: Tensor | None, form: GateForm) -> tuple[Tensor, Tensor | None]:
    """`(a w, a b)`, computed in float32 at least."""
    if form.mask is None:
        return hat_kernels.folded_weight(weight, bias, gate=form)
    mask = form.values()
    # The mask is float32, so the products are float32 at least.
    return (weight * mask).to(weight.dtype), None if bias is None else (bias * mask).to(bias.dtype)
