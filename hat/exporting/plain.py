"""Modules of plain PyTorch for exported networks, where `torch.nn` has no such module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.layers import counted


class Chosen:
    """The task that an exported network answers for.

    Attributes:
        row: the position of the task in the list of tasks that the network was exported for.
    """

    row = 0


class Choice(nn.Module):
    """One module per task. `chosen` says which module computes the result."""

    def __init__(self, modules: Sequence[nn.Module], chosen: Chosen) -> None:
        super().__init__()
        self.of_task = nn.ModuleList(modules)
        self.__dict__["chosen"] = chosen

    def forward(self, *inputs: Tensor) -> Any:
        chosen: Chosen = self.__dict__["chosen"]
        return self.of_task[chosen.row](*inputs)


class Scale(nn.Module):
    """`x * factor` along one dimension; factor [N]. The result is exactly 0 where the factor is 0."""

    factor: Tensor

    def __init__(self, factor: Tensor, unit_dim: int) -> None:
        super().__init__()
        self.register_buffer("factor", factor)
        self.unit_dim = unit_dim

    def forward(self, x: Tensor) -> Tensor:
        factor = self.factor.view(-1, *(1,) * (x.dim() - 1 - self.unit_dim % x.dim()))
        return torch.where(factor == 0, 0.0, x * factor.to(x.dtype))


class Factor(nn.Module):
    """`x * factor`; the factor broadcasts with x. The result is exactly 0 where the factor is 0."""

    factor: Tensor

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.factor == 0, 0.0, x * self.factor.to(x.dtype))


class Constant(nn.Module):
    """A module that answers with its parameter."""

    def __init__(self, value: nn.Parameter) -> None:
        super().__init__()
        self.value = value

    def forward(self) -> Tensor:
        return self.value


class _Counted(nn.Module):
    """A norm over `count` units of which the input has more or fewer; see `hat.layers.counted`."""

    eps: Any

    def __init__(self, count: int, eps: float | None, weight: Tensor | None, bias: Tensor | None) -> None:
        super().__init__()
        self.count, self.eps = count, eps
        self.weight = None if weight is None else nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def extra_repr(self) -> str:
        return f"count={self.count}, eps={self.eps}"


class CountedLayerNorm(_Counted):
    """`torch.nn.LayerNorm` over the last `dims` dimensions, as if the first of these had the length `count`."""

    def __init__(self, dims: int, count: int, eps: float, weight: Tensor | None, bias: Tensor | None) -> None:
        super().__init__(count, eps, weight, bias)
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[-self.dims :]
        missing, inner_shape = self.count - shape[0], shape[1:]
        if missing < 0:
            dims = tuple(range(-self.dims, 0))
            y = counted.layer_norm(x, dims, self.count * inner_shape.numel(), self.eps)
        else:  # padded with zeros, because one call of `layer_norm` is faster than several operations
            padded = F.pad(x, (0, 0) * len(inner_shape) + (0, missing))
            y = F.layer_norm(padded, (self.count, *inner_shape), eps=self.eps).narrow(-self.dims, 0, shape[0])
        if self.weight is not None and self.bias is not None:
            return torch.addcmul(self.bias, y, self.weight)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias


class CountedRMSNorm(_Counted):
    """`torch.nn.RMSNorm` without a weight over the last `dims` dimensions, as if they had `count` elements."""

    def __init__(self, dims: int, count: int, eps: float | None) -> None:
        super().__init__(count, eps, None, None)
        self.dims = tuple(range(-dims, 0))

    def forward(self, x: Tensor) -> Tensor:
        return counted.rms_norm(x, self.dims, self.count, self.eps)


class CountedGroupNorm(_Counted):
    """`torch.nn.GroupNorm` as if every group had `count` channels."""

    def __init__(self, groups: int, count: int, eps: float, weight: Tensor | None, bias: Tensor | None) -> None:
        super().__init__(count, eps, weight, bias)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        y = counted.group_norm(x, self.groups, self.count, self.eps)
        ones = (1,) * (x.dim() - 2)
        y = y if self.weight is None else y * self.weight.view(-1, *ones)
        return y if self.bias is None else y + self.bias.view(-1, *ones)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    **options: Any,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` for values that are wider or narrower than queries and keys.

    Fused kernels demand the same width. Padding the narrower tensors with zeros does not change the result.
    """
    query_width, value_width = query.shape[-1], value.shape[-1]
    scale = query_width**-0.5 if scale is None else scale
    if value_width > query_width:
        query, key = (F.pad(x, (0, value_width - query_width)) for x in (query, key))
    elif value_width < query_width:
        value = F.pad(value, (0, query_width - value_width))
    h = F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)
    return h if value_width >= query_width else h[..., :value_width]


class FusedAttention(nn.Module):
    """`attention`, which in training mode drops attention weights with probability p."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        return attention(query, key, value, attn_mask, self.p if self.training else 0.0, **options)
