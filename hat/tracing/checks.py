"""Whether a graph computes what its module computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.tracing.errors import ConversionError
from hat.tracing.places import described
from hat.tracing.trees import flat, tensors
from hat.tracing.untouched import untouched


def check(
    module: nn.Module, graph_module: fx.GraphModule, example: tuple[Any, ...], suspects: list[str], *, more: int = 1
) -> None:
    """Compare them in evaluation mode, bit for bit.

    Args:
        module: as it is in the hands of its owner.
        graph_module: made of it.
        example: what the graph was recorded on.
        suspects: places where something that may depend on the input became a constant.
        more: how many samples the batch of another size has more.

    Raises:
        ConversionError: they differ on the example, or on other values and another batch size that the module takes.
    """
    if not _same(_run(module, module, example), _run(module, graph_module, example)):
        raise ConversionError(f"{type(module).__name__}: the graph answers otherwise on the example; is it random?")
    for inputs in (other(example, more), other(example, 0)):
        try:
            expected = _run(module, module, inputs)
        except Exception:  # of this size or value it takes none
            continue
        try:
            same = _same(expected, _run(module, graph_module, inputs))
        except Exception as error:
            raise _differs(module, suspects, f"fails ({error})") from error
        if not same:
            raise _differs(module, suspects, "answers otherwise")
        return


def refuse_hidden(module: nn.Module) -> None:
    """Refuse what no recording would show: hooks, parameters that change as they are read or are not there yet.

    Raises:
        ConversionError: names the module.
    """
    for name, each in module.named_modules():
        place = described(name, each)
        if any(nn.parameter.is_lazy(parameter) for parameter in each.parameters(recurse=False)):
            raise ConversionError(f"{place}: has no parameters yet; run the network once")
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            if getattr(each, hooks):
                raise ConversionError(
                    f"{place}: has a hook ({hooks[1:-1]}), which a graph does not show; "
                    "remove it, or write a parametrization (torch.nn.utils.parametrizations) or a module"
                )
        if getattr(each, "max_norm", None) is not None and isinstance(each, nn.Embedding | nn.EmbeddingBag):
            raise ConversionError(f"{place}: changes its weight as it reads it (max_norm); set max_norm to None")


def _differs(module: nn.Module, suspects: list[str], how: str) -> ConversionError:
    places = ", ".join(dict.fromkeys(suspects)) or "nothing became a constant"
    return ConversionError(
        f"{type(module).__name__}: on other values in a batch of another size the graph {how}; what became a constant "
        f"must not depend on the input: {places}"
    )


@torch.no_grad()
def _run(owner: nn.Module, module: nn.Module, example: tuple[Any, ...]) -> list[Any]:
    """What the module answers in evaluation mode, on values of its own and from the same random state."""
    with untouched(owner):
        for each in owner.modules():
            each.training = False
        torch.manual_seed(0)
        return list(flat(module.forward(*_clones(example)), keys=True))  # a graph called as a module prints its errors


def _clones(value: Any) -> Any:
    return torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), value)


def _same(expected: list[Any], got: list[Any]) -> bool:
    return len(expected) == len(got) and all(map(_equal, expected, got))


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other) and bool(one == other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(torch.equal(one, other)) or bool(torch.allclose(one, other, 0, 0, equal_nan=True))


def other(example: tuple[Any, ...], more: int) -> tuple[Any, ...]:
    """Other values of the same kind, in a batch with so many samples more."""
    first = next((each for each in tensors(example) if each.dim()), None)
    batch = -1 if first is None else len(first)
    generator = torch.Generator().manual_seed(0)

    def changed(tensor: Tensor) -> Tensor:
        if tensor.dim() and len(tensor) == batch and batch:
            tensor = torch.cat([tensor, *[tensor[:1]] * more])
        if not tensor.is_floating_point():
            return tensor.flip(tuple(range(tensor.dim())))
        tensor = tensor.detach()
        noise = torch.rand(tensor.shape, generator=generator).to(tensor)
        return tensor + noise * tensor.std(correction=0).nan_to_num(1.0).clamp(min=0.1)

    return torch.utils._pytree.tree_map_only(Tensor, changed, example)
