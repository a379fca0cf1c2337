"""Every operation with every tensor replaced by one of the same shape that is odd: accepted, or refused in one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.fuzz.callables import Target, find
from tests.fuzz.play import wrong_error
from tests.fuzz.recipes import valid
from tests.fuzz.scene import Scene

TARGETS = {name: target for name, target in find().items() if name.startswith("hat_kernels.") and target.owner is None}

ODD: dict[str, Callable[[Tensor], Any]] = {
    "int": lambda t: t.to(torch.int64),
    "bool": lambda t: t > 0,
    "complex": lambda t: t.to(torch.complex64),
    "half": lambda t: t.half(),
    "bfloat16": lambda t: t.bfloat16(),
    "double": lambda t: t.double(),
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "quantized": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "nested": lambda t: torch.nested.nested_tensor([t.float()]),
    "numpy": lambda t: t.numpy(),
    "list": lambda t: t.tolist(),
    "one more dimension": lambda t: t[None],
    "one dimension less": lambda t: t[0] if t.dim() else t[None],
    "no elements": lambda t: t[:0] if t.dim() else t.expand(0),
    "one element": lambda t: torch.ones(()),
    "expanded": lambda t: t[:1].expand_as(t) if t.dim() else t,
    "strided": lambda t: t.repeat_interleave(2, -1)[..., ::2] if t.dim() else t,
    "leaf": lambda t: t.float().clone().requires_grad_(),
    "view of a leaf": lambda t: t.float().clone().requires_grad_().view(t.shape),
    "parameter": lambda t: nn.Parameter(t.float()),
    "nan": lambda t: torch.full_like(t, math.nan),
    "transposed": lambda t: t.mT if t.dim() > 1 else t,
}


def replaced(value: Any, odd: Callable[[Tensor], Any]) -> Iterator[Any]:
    """The value with one of its tensors replaced, for every tensor in it."""
    if isinstance(value, Tensor):
        yield odd(value)
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            for other in replaced(part, odd):
                parts = [*value[:index], other, *value[index + 1 :]]
                yield type(value)(*parts) if hasattr(value, "_fields") else parts
    elif isinstance(value, np.ndarray):
        yield value


def call(target: Target, arguments: dict[str, Any]) -> None:
    result = target.of(None)(**arguments)
    for tensor in result if isinstance(result, tuple) else [result]:
        if isinstance(tensor, Tensor) and tensor.requires_grad and not tensor.is_meta:
            tensor.sum().backward()


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "hat_kernels.backend"])
def test_odd_tensors_are_accepted_or_refused_in_a_line(name):
    target, wrong = TARGETS[name], []
    for kind, odd in ODD.items():
        for argument in valid(target, Scene()):
            torch.manual_seed(0)
            for value in replaced(valid(target, Scene())[argument], odd):
                try:
                    call(target, {**valid(target, Scene()), argument: value})
                except Exception as error:
                    text = wrong_error(error, ())
                    wrong += [f"{argument} {kind}: {text}"] if text else []
    assert not wrong, "\n".join(wrong)
