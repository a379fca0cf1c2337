"""Whether a graph computes what its module computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.conversion.errors import ConversionError
from hat.conversion.untouched import untouched


def check(module: nn.Module, graph_module: fx.GraphModule, example: tuple[Any, ...], burnt: list[str]) -> None:
    """Compare them in evaluation mode, bit for bit.

    Args:
        module: as it is in the hands of its owner.
        graph_module: made of it.
        example: what the graph was recorded on.
        burnt: places where a size became a number.

    Raises:
        ConversionError: they differ on the example, or on other values and another batch size that the module takes.
    """
    if not _same(_run(module, module, example), _run(module, graph_module, example)):
        raise ConversionError(f"{type(module).__name__}: the graph answers otherwise on the example; is it random?")
    for other in (_other(example, 1), _other(example, 0)):
        try:
            expected = _run(module, module, other)
        except Exception:  # of this size or value it takes none
            continue
        try:
            same = _same(expected, _run(module, graph_module, other))
        except Exception as error:
            raise _differs(module, burnt, f"fails ({error})") from error
        if not same:
            raise _differs(module, burnt, "answers otherwise")
        return


def _differs(module: nn.Module, burnt: list[str], how: str) -> ConversionError:
    places = ", ".join(dict.fromkeys(burnt)) or "no size is turned into a number of Python"
    return ConversionError(
        f"{type(module).__name__}: on other values in a batch of another size the graph {how}; let nothing but tensors "
        f"and sizes depend on the input, and make no number of a size: {places}"
    )


@torch.no_grad()
def _run(owner: nn.Module, module: nn.Module, example: tuple[Any, ...]) -> list[Any]:
    """What the module answers in evaluation mode, on values of its own and from the same random state."""
    with untouched(owner):
        for each in owner.modules():
            each.training = False
        torch.manual_seed(0)
        return list(_flat(module(*_clones(example))))


def _clones(value: Any) -> Any:
    return torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), value)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield key
            yield from _flat(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _flat(each)
    else:
        yield value


def _same(expected: list[Any], got: list[Any]) -> bool:
    return len(expected) == len(got) and all(map(_equal, expected, got))


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other) and bool(one == other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(torch.equal(one, other)) or bool(torch.allclose(one, other, 0, 0, equal_nan=True))


def _other(example: tuple[Any, ...], more: int) -> tuple[Any, ...]:
    """Other values of the same kind, in a batch with so many samples more."""
    first = next((each for each in _flat(example) if isinstance(each, Tensor) and each.dim()), None)
    batch = -1 if first is None else len(first)
    generator = torch.Generator().manual_seed(0)

    def other(tensor: Tensor) -> Tensor:
        if tensor.dim() and len(tensor) == batch and batch:
            tensor = torch.cat([tensor, *[tensor[:1]] * more])
        if not tensor.is_floating_point():
            return tensor.flip(tuple(range(tensor.dim())))
        tensor = tensor.detach()
        noise = torch.rand(tensor.shape, generator=generator).to(tensor)
        return tensor + noise * tensor.std(correction=0).nan_to_num(1.0).clamp(min=0.1)

    return torch.utils._pytree.tree_map_only(Tensor, other, example)
