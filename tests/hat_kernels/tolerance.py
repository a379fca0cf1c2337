"""Tolerances, derived from a float64 run of a reference and never chosen by hand.

A reference is a plain function of tensors. Its error in a dtype is measured: the inputs are widened to float64 for the
exact result, and to float32 at least for the rounded one, which is then cast to the dtype. What is tested may be
`FACTOR` times as far from the exact result, for another order of the same operations, plus one rounding of the output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FACTOR = 2.0


def widened(value: Any, dtype: torch.dtype) -> Any:
    """A floating tensor as `dtype`, anything else as it is; lists and tuples element by element."""
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
    """(exact, allowed): the float64 results, and how far from each a result in `dtype` may lie, elementwise maximum."""
    arithmetic = torch.promote_types(dtype, torch.float32)
    precise = exact(reference, *inputs, **options)
    rounded = reference(*widened(list(inputs), arithmetic), **widened_options(options, arithmetic))
    if isinstance(precise, Tensor):
        return precise, _allowed(precise, rounded, dtype)
    return precise, [_allowed(p, r, dtype) for p, r in zip(precise, rounded, strict=True)]


def _allowed(precise: Tensor, rounded: Tensor, dtype: torch.dtype) -> float:
    if not precise.numel():
        return 0.0
    own = (rounded.to(dtype).double() - precise).abs().max().item()
    return FACTOR * own + torch.finfo(dtype).eps * precise.abs().max().item()


def assert_as_accurate(actual: Any, reference: Callable[..., Any], *inputs: Any, **options: Any) -> None:
    """`actual`, a tensor or a sequence of them, is as near to the exact result as the reference in its dtype is.

    Where the exact result is 0 by a select, `actual` is compared like any other element; shapes must agree.
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
