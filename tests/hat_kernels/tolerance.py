"""Tolerances that are derived from a float64 run of a reference, never chosen by hand.

A reference is a plain function of tensors. It runs twice: on inputs widened to float64, which gives the exact result,
and on inputs in float32 or wider, whose result is cast to the dtype. The distance of the two is the error of the
reference. A tested result may be `FACTOR` times as far from the exact result, because it may compute in another order,
plus one rounding of the output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FACTOR = 2.0


def widened(value: Any, dtype: torch.dtype) -> Any:
    """Floating tensors cast to `dtype`, also in lists and tuples; other values unchanged."""
    if isinstance(value, Tensor):
        return value.detach().to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return type(value)(widened(element, dtype) for element in value)
    return value


def exact(reference: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """The reference in float64."""
    return reference(*widened(list(inputs), torch.float64), **widened_options(options, torch.float64))


def widened_options(options: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {name: widened(value, dtype) for name, value in options.items()}


def error(reference: Callable[..., Any], dtype: torch.dtype, *inputs: Any, **options: Any) -> tuple[Any, Any]:
    """(exact, allowed): the float64 results, and the largest allowed distance of an element from each in `dtype`."""
    arithmetic = torch.promote_types(dtype, torch.float32)
    precise = exact(reference, *inputs, **options)
    rounded = reference(*widened(list(inputs), arithmetic), **widened_options(options, arithmetic))
    if isinstance(precise, Tensor):
        return precise, _allowed(precise, rounded, dtype)
    return precise, [_allowed(p, r, dtype) for p, r in zip(precise, rounded, strict=True)]


def _allowed(precise: Tensor, rounded: Tensor, dtype: torch.dtype) -> float:
    if not precise.numel():
        return 0.0
    rounding = (rounded.to(dtype).double() - precise).abs().max().item()
    return FACTOR * rounding + torch.finfo(dtype).eps * precise.abs().max().item()


def assert_as_accurate(actual: Any, reference: Callable[..., Any], *inputs: Any, **options: Any) -> None:
    """Check that `actual`, a tensor or a sequence of tensors, is as near to the exact result as the reference.

    Shapes must agree. Elements that are exactly 0 are compared like all others.
    """
    several = not isinstance(actual, Tensor)
    results = list(actual) if several else [actual]
    for index, result in enumerate(results):
        precise, allowed = error(reference, result.dtype, *inputs, **options)
        expected, bound = (precise[index], allowed[index]) if several else (precise, allowed)
        assert result.shape == expected.shape
        if not result.numel():
            continue
        difference = (result.double() - expected).abs().max().item()
        assert difference <= bound, f"result {index}: off by {difference:g}, allowed {bound:g}"
