"""Checking that a recorded graph computes what its module computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from hat.tracing.different import AllDifferent
from hat.tracing.errors import ConversionError
from hat.tracing.leaves import sealed
from hat.tracing.places import described
from hat.tracing.trees import flat, tensors
from hat.tracing.untouched import untouched


def check(
    module: nn.Module, graph_module: fx.GraphModule, example: tuple[Any, ...], suspects: list[str], *, more: int = 1
) -> None:
    """Compare a module with its graph, in evaluation mode, bit for bit.

    Nothing is drawn for the comparison; a network that draws numbers of its own gets the same ones as its graph. Calls
    of torch cannot be missing in the graph. What can be wrong in it is a value that Python took out of a tensor or of a
    size, and that became a constant. The graph cannot follow when that value changes. So all floating-point values are
    changed, each to another one, and the number of samples. What Python decides by other sizes than these stays as it
    was on the example, for the module that uses the graph too.

    Args:
        module: the network.
        graph_module: the graph that was recorded from `module`.
        example: the inputs that the graph was recorded on.
        suspects: places where something became a constant that may depend on the input; for the message.
        more: by how many samples the second batch is larger than the example.

    Raises:
        ConversionError: the two answer differently on the example, or on other values in a larger batch. If the module
            fails on the larger batch, other values in a batch of the same size are compared instead.
    """
    expected = _run(module, module, example)
    try:
        answer = _run(module, graph_module, example)
    except Exception as error:
        raise ConversionError(f"{type(module).__name__}: the graph fails on the example ({error})") from error
    if not same(expected, answer):
        raise ConversionError(f"{type(module).__name__}: the graph answers differently on the example; is it random?")
    for inputs in (other_inputs(example, more), other_inputs(example, 0)):
        try:
            expected = _run(module, module, inputs)
        except Exception:  # the module does not take this size or these values
            continue
        try:
            agrees = same(expected, _run(module, graph_module, inputs))
        except Exception as error:
            raise _differs(module, suspects, f"fails ({error})") from error
        if not agrees:
            raise _differs(module, suspects, "answers differently")
        return


def refuse_hidden(module: nn.Module) -> None:
    """Refuse what a recording cannot show.

    That is: scripted and compiled modules, hooks, parameters that do not exist yet, and weights that change when they
    are read.

    Raises:
        ConversionError: a module has one of these; the message names the module.
    """
    if (reason := sealed(module)) is not None:
        raise ConversionError(f"{described('', module)}: {reason}")
    for name, part in module.named_modules():
        place = described(name, part)
        if any(isinstance(hook, SpectralNorm) for hook in part._forward_pre_hooks.values()):
            raise ConversionError(
                f"{place}: spectral_norm takes a step of its power iteration in each call in training, which a "
                "converted network cannot do; remove it by torch.nn.utils.remove_spectral_norm(layer)"
            )
        if any(nn.parameter.is_lazy(parameter) for parameter in part.parameters(recurse=False)):
            raise ConversionError(f"{place}: has no parameters yet; run the network once")
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            if getattr(part, hooks):
                raise ConversionError(
                    f"{place}: has a hook ({hooks[1:-1]}), which a graph does not show; "
                    "remove it, or write a parametrization (torch.nn.utils.parametrizations) or a module"
                )
        if getattr(part, "max_norm", None) is not None and isinstance(part, nn.Embedding | nn.EmbeddingBag):
            raise ConversionError(f"{place}: changes its weight when it reads it (max_norm); set max_norm to None")


def _differs(module: nn.Module, suspects: list[str], how: str) -> ConversionError:
    places = ", ".join(dict.fromkeys(suspects)) or "none"
    return ConversionError(
        f"{type(module).__name__}: on other values in a batch of another size the graph {how}; something that depends "
        f"on the input became a constant in the graph; candidates: {places}"
    )


@torch.no_grad()
def _run(owner: nn.Module, module: nn.Module, example: tuple[Any, ...]) -> list[Any]:
    """The answer of `module` in evaluation mode, on copies of the example, from random seed 0, as a flat list.

    Args:
        owner: the network; it is left as it was.
        module: the network or its graph, which share their parameters.
        example: the inputs.
    """
    with untouched(owner):
        for part in owner.modules():
            part.training = False
        torch.manual_seed(0)
        answer = module.forward(*_clones(example))  # a graph that is called as a module prints its errors
        return list(flat(answer, keys=True))


def _clones(value: Any) -> Any:
    return torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), value)


def same(expected: list[Any], got: list[Any]) -> bool:
    """Whether two flat answers are equal, bit for bit; NaN is equal to NaN."""
    return len(expected) == len(got) and all(map(_equal, expected, got))


def _equal(expected: Any, got: Any) -> bool:
    if not isinstance(expected, Tensor) or not isinstance(got, Tensor):
        return type(expected) is type(got) and bool(expected == got)
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return False
    return bool(torch.equal(expected, got)) or bool(torch.allclose(expected, got, 0, 0, equal_nan=True))


def other_inputs(example: tuple[Any, ...], more: int) -> tuple[Any, ...]:
    """Other inputs of the same kind, in a batch with `more` additional samples.

    No value is drawn. Floating-point values are shifted by numbers that are all different, so that no two samples and
    no two positions are equal, even in an example of zeros. Nobody knows which other integers a network takes, such as
    tokens or lengths, so integers and bools are those of the example in reversed order; if that changes nothing, each
    moves on by one place. So they all change unless all are equal. The first sample is repeated `more` times.
    """
    first = next((value for value in tensors(example) if value.dim()), None)
    batch = -1 if first is None else len(first)
    numbers = AllDifferent()

    def other_values(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if tensor.dim() and len(tensor) == batch and batch:
            tensor = torch.cat([tensor, *[tensor[:1]] * more])
        if not tensor.is_floating_point():
            reversed_order = tensor.flip(tuple(range(tensor.dim())))
            return tensor.roll(1) if torch.equal(reversed_order, tensor) else reversed_order
        spread = tensor.std(correction=0).nan_to_num(1.0).clamp(min=0.1)
        return tensor + numbers.take(tensor.shape).to(tensor) * spread

    return torch.utils._pytree.tree_map_only(Tensor, other_values, example)
