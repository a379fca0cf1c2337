"""Norms with a per-task affine part, per-task statistics, and a gate behind them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.arguments import got
from hat.layers import counted
from hat.layers.gated_norm import GatedNorm


class _HATBatchNorm(GatedNorm):
    options = ("num_features", "eps", "momentum", "affine", "track_running_stats")
    dims: tuple[int, ...]

    num_features: int
    momentum: float | None
    num_batches_tracked: Tensor

    @property
    def units(self) -> int:
        return self.num_features

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, ...] to the same shape.

        While a task is learned, training mode normalises by the statistics of the batch, and averages these into the
        statistics of the task. A finished task is always normalised by its own statistics.

        Raises:
            TypeError: `x` is not a tensor, or its dtype does not go with that of the weight.
            ValueError: `x` has another number of dimensions or channels, or another device.
        """
        if not isinstance(x, Tensor) or x.dim() not in self.dims or x.shape[1] != self.num_features:
            expected = f"{' or '.join(map(str, self.dims))} dimensions (B, {self.num_features}, ...)"
            raise ValueError(f"x: expected {expected}, got {tuple(x.shape) if isinstance(x, Tensor) else got(x)}")
        return super().forward(x)

    def _normalised(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        mean, var = self.of_task("running_mean"), self.of_task("running_var")
        if mean is None:
            return F.batch_norm(x, None, None, weight, bias, True, 0.0, self.eps)
        if self.training and self.is_learning:
            return self._learn(x, mean, var, weight, bias)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, self.eps)

    def _mixed(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        mean, var = self.of_task("running_mean"), self.of_task("running_var")
        if mean is None:
            return super()._mixed(x, weight, bias)
        wide = torch.promote_types(var.dtype, torch.float32)
        scale = (var.to(wide) + self.eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        return self._scaled(x, scale, shift)

    def _learn(self, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        self.num_batches_tracked.add_(1)
        if self.momentum is not None:
            return F.batch_norm(x, mean, var, weight, bias, True, self.momentum, self.eps)
        mean_of_batch, var_of_batch = torch.zeros_like(mean), torch.zeros_like(var)
        y = F.batch_norm(x, mean_of_batch, var_of_batch, weight, bias, True, 1.0, self.eps)
        share = self.num_batches_tracked.to(mean.dtype).reciprocal()  # a tensor: reading the number would wait for it
        mean.lerp_(mean_of_batch, share)
        var.lerp_(var_of_batch, share)
        return y


class HATBatchNorm1d(_HATBatchNorm):
    __doc__: str | None = GatedNorm.__doc__
    plain = nn.BatchNorm1d
    dims: tuple[int, ...] = (2, 3)


class HATBatchNorm2d(_HATBatchNorm):
    __doc__: str | None = GatedNorm.__doc__
    plain, dims = nn.BatchNorm2d, (4,)


class HATBatchNorm3d(_HATBatchNorm):
    __doc__: str | None = GatedNorm.__doc__
    plain, dims = nn.BatchNorm3d, (5,)


class HATGroupNorm(GatedNorm):
    __doc__: str | None = GatedNorm.__doc__
    plain, options = nn.GroupNorm, ("num_groups", "num_channels", "eps", "affine")

    num_groups: int
    num_channels: int

    @property
    def units(self) -> int:
        return self.num_channels

    def _normalised(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if x.dim() < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"x: expected shape (B, {self.num_channels}, ...), got {tuple(x.shape)}")
        if not self._counts:
            return F.group_norm(x, self.num_groups, weight, bias, self.eps)
        count = self.of_task("count")
        count = count.view(-1, *(1,) * x.dim()) if count.dim() else count
        y = counted.group_norm(x, self.num_groups, count // self.num_groups, self.eps)
        return _affine(y, *(None if values is None else self._spread(values[None], x) for values in (weight, bias)))

    def keep_count(self, before: int, now: int, tasks: int) -> None:
        """See `GatedNorm.keep_count`."""
        self._keep_count(before, now, tasks)


class _LastDimensions(GatedNorm):
    options = ("normalized_shape", "eps", "elementwise_affine")
    unit_dim = -1

    normalized_shape: tuple[int, ...]

    @property
    def units(self) -> int | None:
        return self.normalized_shape[0] if len(self.normalized_shape) == 1 else None

    def keep_count(self, before: int, now: int, tasks: int) -> None:
        """See `GatedNorm.keep_count`."""
        self._keep_count(before, now, tasks)

    def _elements(self, x: Tensor) -> tuple[tuple[int, ...], Tensor]:
        """The dimensions that are normalised over, and the number of elements that count."""
        dims = tuple(range(x.dim() - len(self.normalized_shape), x.dim()))
        count = self.of_task("count") * math.prod(self.normalized_shape[1:])
        return dims, count.view(-1, *(1,) * (x.dim() - 1)) if count.dim() else count


class HATLayerNorm(_LastDimensions):
    __doc__: str | None = GatedNorm.__doc__
    plain = nn.LayerNorm

    def _normalised(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if x.shape[-len(self.normalized_shape) :] != self.normalized_shape:
            raise ValueError(f"x: expected (..., {', '.join(map(str, self.normalized_shape))}), got {tuple(x.shape)}")
        if self._counts:
            return _affine(counted.layer_norm(x, *self._elements(x), self.eps), weight, bias)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class HATRMSNorm(_LastDimensions):
    __doc__: str | None = GatedNorm.__doc__
    plain = nn.RMSNorm

    def _normalised(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if x.shape[-len(self.normalized_shape) :] != self.normalized_shape:
            raise ValueError(f"x: expected (..., {', '.join(map(str, self.normalized_shape))}), got {tuple(x.shape)}")
        if self._counts:
            return _affine(counted.rms_norm(x, *self._elements(x), self.eps), weight, bias)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = y if weight is None else y * weight
    return (scaled if bias is None else scaled + bias).to(y.dtype)


NORMS: dict[type[nn.Module], type[GatedNorm]] = {
    norm.plain: norm
    for norm in (HATBatchNorm1d, HATBatchNorm2d, HATBatchNorm3d, HATGroupNorm, HATLayerNorm, HATRMSNorm)
}
"""The gated norm for every `torch.nn` layer."""
