"""Normalisations whose affine part and statistics every task has for itself, with a gate behind them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.gated_norm import GatedNorm


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
        """[B, N, ...], kept; a ValueError for another number of dimensions.

        A finished task is normalised by its own statistics in training mode too. While a task is learned, training mode
        takes those of the batch, and averages them into the task's.
        """
        if x.dim() not in self.dims:
            expected = " or ".join(map(str, self.dims))
            raise ValueError(f"x: expected {expected} dimensions (B, N, ...), got {tuple(x.shape)}")
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
        own = torch.zeros_like(mean), torch.zeros_like(var)
        y = F.batch_norm(x, *own, weight, bias, True, 1.0, self.eps)
        share = self.num_batches_tracked.to(mean.dtype).reciprocal()  # a tensor: to read the number is to wait for it
        mean.lerp_(own[0], share)
        var.lerp_(own[1], share)
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
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


class _LastDimensions(GatedNorm):
    options = ("normalized_shape", "eps", "elementwise_affine")
    unit_dim = -1

    normalized_shape: tuple[int, ...]

    @property
    def units(self) -> int | None:
        return self.normalized_shape[0] if len(self.normalized_shape) == 1 else None


class HATLayerNorm(_LastDimensions):
    __doc__: str | None = GatedNorm.__doc__
    plain = nn.LayerNorm

    def _normalised(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class HATRMSNorm(_LastDimensions):
    __doc__: str | None = GatedNorm.__doc__
    plain = nn.RMSNorm

    def _normalised(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


NORMS: dict[type[nn.Module], type[GatedNorm]] = {
    norm.plain: norm
    for norm in (HATBatchNorm1d, HATBatchNorm2d, HATBatchNorm3d, HATGroupNorm, HATLayerNorm, HATRMSNorm)
}
"""By the layer of `torch.nn` that each is made of."""
