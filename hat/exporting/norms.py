"""The norm of one task as a plain module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hat.exporting.plain import CountedGroupNorm, CountedLayerNorm, CountedRMSNorm, Scale
from hat.layers.gated_norm import GatedNorm
from hat.layers.norms import HATGroupNorm, HATLayerNorm, HATRMSNorm

_KEEP_ZERO = ("identity", "relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "tanh")


def plain_norm(norm: GatedNorm, activations: Mapping[str, Callable[[], nn.Module]]) -> nn.Module:
    """The norm of the task that `norm.state` answers for, with its activation and its mask.

    The mask goes into the affine part if it can, else it is a module behind the activation.

    Args:
        norm: the gated norm, which is not changed.
        activations: makes an activation, by its name.
    """
    weight, bias = (_copy(norm.of_task(name)) for name in ("weight", "bias"))
    mask = norm.gate.form().mask.detach() if norm.gate is not None else None
    behind: list[nn.Module] = [] if norm.activation == "identity" else [activations[norm.activation]()]
    if mask is not None and bool((mask != 1).any()):
        binary = bool(((mask == 0) | (mask == 1)).all())
        if weight is not None and norm.activation in _KEEP_ZERO and binary:
            weight, bias = (None if values is None else (values * mask).to(values.dtype) for values in (weight, bias))
        else:
            behind.append(Scale(mask.clone(), norm.unit_dim))
    plain = _MAKES.get(type(norm), _batch_norm)(norm, weight, bias)
    return nn.Sequential(plain, *behind) if behind else plain


def _batch_norm(norm: Any, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    plain = norm.plain(
        norm.num_features,
        norm.eps,
        norm.momentum,
        affine=weight is not None,
        track_running_stats=norm.running_mean is not None,
    )
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        if getattr(norm, name, None) is not None:
            setattr(plain, name, _copy(norm.of_task(name)))
    return _with(plain, weight, bias)


def _layer_norm(norm: HATLayerNorm, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    count = _count(norm, norm.normalized_shape[0])
    if count == norm.normalized_shape[0]:
        return _with(nn.LayerNorm(norm.normalized_shape, norm.eps, weight is not None, bias is not None), weight, bias)
    return CountedLayerNorm(len(norm.normalized_shape), count, norm.eps, weight, bias)


def _group_norm(norm: HATGroupNorm, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    count = _count(norm, norm.num_channels)
    if count == norm.num_channels:
        return _with(nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps, weight is not None), weight, bias)
    return CountedGroupNorm(norm.num_groups, count // norm.num_groups, norm.eps, weight, bias)


def _rms_norm(norm: HATRMSNorm, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    """An RMS norm over k units, which computes the same as the norm that was learned over N units.

    With the sum of squares S: `x / sqrt(S/N + eps) = sqrt(N/k) x / sqrt(S/k + eps N/k)`.
    """
    share = _count(norm, norm.normalized_shape[0]) / norm.normalized_shape[0]
    if share == 1:
        return _with(nn.RMSNorm(norm.normalized_shape, norm.eps, weight is not None), weight, None)
    if weight is None:
        dims = len(norm.normalized_shape)
        return CountedRMSNorm(dims, _count(norm, 0) * torch.Size(norm.normalized_shape[1:]).numel(), norm.eps)
    eps = torch.finfo(weight.dtype).eps if norm.eps is None else norm.eps
    return _with(nn.RMSNorm(norm.normalized_shape, eps * share), weight * share**0.5, None)


_MAKES: dict[type[GatedNorm], Callable[..., nn.Module]] = {
    HATLayerNorm: _layer_norm,
    HATGroupNorm: _group_norm,
    HATRMSNorm: _rms_norm,
}


def _count(norm: GatedNorm, length: int) -> int:
    return int(norm.of_task("count")) if "count" in norm.kept else length


def _with(plain: nn.Module, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    for name, values in (("weight", weight), ("bias", bias)):
        if values is not None:
            setattr(plain, name, nn.Parameter(values))
    return plain


def _copy(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().clone().contiguous()
