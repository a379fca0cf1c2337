"""Convolutions whose output channels are gated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hat_kernels
from hat.arguments import check_arguments, check_type, check_whole, got
from hat.layers.gated import GatedLayer, check_options, check_same_kind
from hat.units.gate import Gate


class _HATConv(GatedLayer):
    """`y = a * pool(dropout(activation(conv(x) + b)))` over channels, Serrà et al. 2018, eq. 1.

    The gate comes last. Behind the pool it has fewer elements to multiply, and the pool has chosen its elements before
    a unit is switched off. While a task is learned, the gate may multiply the weights instead, see `GateConfig.fold`.

    Args:
        in_channels: the number of input channels.
        out_channels: N, the number of output channels, which are the units of the gate.
        kernel_size: the same as for the `torch.nn` layer.
        activation: a key of `hat_kernels.ACTIVATIONS`.
        dropout: probability in [0, 1) of dropping an activation in training mode.
        pool: a module that pools every channel by itself, or None.
        gate: use this gate of N units, which other layers may share; by default the layer makes a gate.
        inputs: the gate of the input channels; see `connect`.
        conv: stride, padding, dilation, groups, bias, padding_mode, device, dtype, the same as for the `torch.nn`
            layer.

    Raises:
        TypeError: an argument is of another class than annotated, or than in the `torch.nn` layer.
        ValueError: a number, `activation` or `dropout` is out of range, or a gate has another number of units.
    """

    pool: nn.Module | None
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: Any
    _reversed_padding_repeated_twice: list[int]
    _conv_forward: Callable[[Tensor, Tensor, Tensor | None], Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        pool: nn.Module | None = None,
        gate: Gate | None = None,
        inputs: Gate | None = None,
        **conv: Any,
    ) -> None:
        check_options(activation, dropout)
        arguments = {**locals(), **conv}
        check_arguments(_HATConv, arguments)
        check_arguments(self.plain, conv)
        for name in ("in_channels", "out_channels", "groups"):
            check_whole(name, int(arguments.get(name, 1)), least=1)
        for name in ("kernel_size", "stride", "dilation", "padding"):
            self._check_sizes(name, arguments.get(name, 1), least=int(name != "padding"))
        super().__init__(in_channels, out_channels, kernel_size, **conv)
        self.pool = pool
        self._set_up(out_channels, 1, activation, dropout, gate, inputs)

    @classmethod
    def around(cls, plain: nn.Module, *, pool: nn.Module | None = None, **options: Any) -> Any:
        """A gated convolution with the parameters of a plain one, see `GatedLayer.around`.

        Args:
            plain: see `GatedLayer.around`.
            pool: a module that pools every channel by itself, before the gate.
            options: see `GatedLayer.around`.
        """
        check_type("pool", pool, (nn.Module, type(None)), "a torch.nn.Module or None")
        layer = super().around(plain, **options)
        layer.pool = pool
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, *spatial] to [B, N, *spatial].

        Raises:
            TypeError: `x` is not a tensor.
            ValueError: `x` has another number of dimensions or channels.
        """
        dims = len(self.kernel_size) + 2
        if not isinstance(x, Tensor):
            raise TypeError(f"x: expected a tensor (B, {self.in_channels}, *spatial), got {got(x)}")
        if x.dim() != dims or x.shape[1] != self.in_channels:
            expected = f"{dims} dimensions (B, {self.in_channels}, *spatial)"
            raise ValueError(f"x: expected {expected}, got {tuple(x.shape)}")
        weight = self.weight  # read only once: a parametrization may compute the weight, and may count the reads
        if x.dtype != weight.dtype or x.device != weight.device:
            check_same_kind(x, weight)
        frozen, form = self._frozen(weight), self._form
        folded = self._folded(weight, frozen, form, self._rows(x), self.pool)
        z = self._locked_conv(x, weight, frozen) if folded is None else self._conv_forward(x, *folded)
        form = form if folded is None else None
        h = hat_kernels.gated_activation(
            z,
            activation=self.activation,
            dropout=self.dropout if self.training else 0.0,
            gate=form if self.pool is None else None,
            unit_dim=1,
            overwrite=True,  # the backward pass of a convolution does not need the result
        )
        if self.pool is None:
            return h
        h = self.pool(h)
        return hat_kernels.gated_activation(h, activation="identity", gate=form, unit_dim=1)

    def _check_sizes(self, name: str, value: Any, *, least: int) -> None:
        """Check an option of a convolution: one number, or one for each spatial dimension."""
        dims = _DIMS[self.plain]
        sizes = value if isinstance(value, Sequence) else (value,) * dims
        if name == "padding" and isinstance(value, str):
            return
        if len(sizes) != dims or any(isinstance(size, bool) or not isinstance(size, Integral) for size in sizes):
            raise ValueError(f"{name}: expected an int or {dims} ints, got {value!r:.60}")
        for size in sizes:
            check_whole(name, int(size), least=least)

    def _rows(self, x: Tensor) -> int:
        """About how many positions the convolution makes in all images; the edges are not counted exactly."""
        rows = x.shape[0] * x.shape[2:].numel()
        for step in self.stride:
            rows //= step
        return rows

    def _locked_conv(self, x: Tensor, weight: Tensor, frozen: tuple[int, int] | None) -> Tensor:
        """The convolution. If a block of the weight is locked, no gradient is computed for that block."""
        if frozen is None or 0 in frozen or not torch.is_grad_enabled():  # nothing is locked, or no gradient is needed
            return self._conv_forward(x, weight, self.bias)
        padding: Sequence[int] = [0] * len(self.kernel_size)
        if self.padding_mode == "zeros" and not isinstance(self.padding, str):
            padding = self.padding
        else:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
        return hat_kernels.locked_conv(
            x,
            weight,
            self.bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            frozen=frozen,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}, dropout={self.dropout}"


class HATConv1d(_HATConv, nn.Conv1d):
    __doc__: str | None = _HATConv.__doc__  # type: ignore[assignment]
    plain = nn.Conv1d


class HATConv2d(_HATConv, nn.Conv2d):
    __doc__: str | None = _HATConv.__doc__  # type: ignore[assignment]
    plain = nn.Conv2d


class HATConv3d(_HATConv, nn.Conv3d):
    __doc__: str | None = _HATConv.__doc__  # type: ignore[assignment]
    plain = nn.Conv3d


_DIMS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
"""The number of spatial dimensions."""
