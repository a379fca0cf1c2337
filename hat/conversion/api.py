"""Conversion of any network to the body of a model: record the graph, follow the units, insert gates, try it out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.conversion.analysis import Analysis
from hat.conversion.axes import Axes
from hat.conversion.body import Converted
from hat.conversion.heads import check_shape, find_head, run, take_off
from hat.conversion.modular import make_modular
from hat.conversion.nothing import nothing_to_gate
from hat.conversion.rewrite import Rewriter
from hat.conversion.rules import RULES, module_rule
from hat.conversion.trials import keep_places
from hat.conversion.units import varying
from hat.network.network import Network
from hat.network.tolerance import SUMS, difference
from hat.tracing.checks import other_inputs, refuse_hidden
from hat.tracing.errors import ConversionError
from hat.tracing.leaves import is_leaf
from hat.tracing.places import explained
from hat.tracing.trace import trace
from hat.tracing.training_only import missing_in_training
from hat.tracing.trees import tensors
from hat.tracing.untouched import evaluating
from hat.units.gate import Gate
from hat.units.state import OPEN
from hat.warnings import TrainingOnlyWarning, UnlockedWarning


def convert_body(
    module: nn.Module,
    example_input: Any,
    *,
    head: str | None = "last",
    filter: Callable[[nn.Module, str], bool] | None = None,
    per_head: bool = False,
    ours: bool = False,
) -> Converted:
    """The body of the model that `hat.convert` makes. For the other arguments and the errors see `hat.convert`.

    Args:
        ours: the network is of this library: it does nothing in training that its graph does not, as the tests show.
    """
    example = example_input if isinstance(example_input, tuple) else (example_input,)
    refuse_hidden(module)
    _check_present(module, example)
    modes = {name: part.training for name, part in module.named_modules()}
    excluded = _excluded(module, filter)
    # The layers of the graph are those of the network, which keeps its modes.
    with evaluating(module), explained(module):
        body, modes_of = _converted(module, example, excluded, head, per_head, ours)
    for part in body.modules():
        part.training = module.training
    for name, part in body.network.named_modules():
        part.training = _mode(modes_of.get(name, name), modes)
    return body


def _mode(name: str, modes: Mapping[str, bool]) -> bool:
    """The mode that a module of this name had, or else the module around it that had a name."""
    while name not in modes:
        name = name.rpartition(".")[0]
    return modes[name]


def _converted(
    module: nn.Module,
    example: tuple[Any, ...],
    excluded: set[str],
    head: str | None,
    per_head: bool,
    ours: bool,
) -> tuple[Converted, dict[str, str]]:
    """See `convert_body`; and for the modules of the graph that do the work of another module, the name of that."""
    traced = trace(
        module, example, leaves=lambda part, name: name in excluded or (is_leaf(part, name) and not _is_function(part))
    )
    lost = "" if ours else missing_in_training(module, traced, example)
    network = traced.graph_module
    make_modular(network, traced.values)
    name = find_head(network, head)
    taken = None if name is None else take_off(network, name)
    network.recompile()
    concrete = run(network, example)
    answer = _answer(network, concrete)
    if name is not None and taken is not None:
        check_shape(name, taken, traced.answer, answer)
    trials = [(example, answer), *_other_trial(network, example)]
    analysis = Analysis(
        network,
        concrete,
        rules=RULES,
        module_rule=module_rule,
        per_head=per_head,
        is_excluded=lambda name: any(name == path or name.startswith(f"{path}.") for path in excluded),
    ).run()
    rewriter = Rewriter(analysis)
    axes = rewriter.run()
    if not axes.gates:
        raise nothing_to_gate(module, analysis, name)
    tail, loose = _ending(analysis, axes)
    body = Converted(
        network,
        axes.gates,
        features=answer.shape[-1],
        head=name,
        tail=tail,
        loose=loose,
        layouts=rewriter.layouts(),
        needed=_needed(analysis, axes),
        example=torch.utils._pytree.tree_map_only(Tensor, Tensor.detach, example),
        reasons=rewriter.reasons(),
    )
    for inputs, expected in trials:
        _check_same(body, inputs, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnlockedWarning)  # the user's own model will give this warning
        keep_places(Network(body), example)
    if lost:
        warnings.warn(
            f"the converted network lacks what the network does in training only: {lost}; a module that is kept out "
            "with filter= stays as it is",
            TrainingOnlyWarning,
            stacklevel=4,
        )
    return body, rewriter.modes_of


def _check_present(module: nn.Module, example: tuple[Any, ...]) -> None:
    """Refuse a network or an example without values, and a network that has gates already.

    Raises:
        ValueError: a module is a gate, a tensor is on the meta device, or a tensor of the example is empty, sparse or
            nested.
    """
    for name, part in module.named_modules():
        if isinstance(part, Gate):
            raise ValueError(f"module: expected a network without gates, got a hat.Gate at {name!r}; convert it once")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise ValueError(f"module: expected values, got {name} on the meta device; call to_empty and initialise it")
    for tensor in tensors(example):
        if tensor.layout is not torch.strided or tensor.is_nested:
            kind = "nested" if tensor.is_nested else tensor.layout
            raise ValueError(f"example_input: expected dense tensors, got a {kind} one; call to_dense, or pad it")
        if tensor.is_meta or not tensor.numel():
            raise ValueError(f"example_input: expected values, got {tuple(tensor.shape)} on {tensor.device}")


def _excluded(module: nn.Module, filter: Callable[[nn.Module, str], bool] | None) -> set[str]:
    if filter is None:
        return set()
    return {name for name, part in module.named_modules() if name and not filter(part, name)}


def _is_function(module: nn.Module) -> bool:
    """Whether a module is recorded as the function that it calls, with the parameters as arguments."""
    norms = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d
    return isinstance(module, nn.PReLU) or (isinstance(module, norms) and not module.track_running_stats)


def _answer(network: fx.GraphModule, concrete: dict[fx.Node, Any]) -> Tensor:
    """The features that the heads get, on the example."""
    (node,) = network.graph.output_node().args
    answer = concrete.get(node) if isinstance(node, fx.Node) else node
    if not isinstance(answer, Tensor):
        raise ConversionError(
            f"the network: expected it to answer with one tensor, got {type(answer).__name__}; wrap it in a module "
            "that returns the features for the heads"
        )
    if answer.dim() < 2 or not answer.is_floating_point():
        raise ConversionError(f"the network: expected features [B, ..., F], got {answer.dtype} {tuple(answer.shape)}")
    if not answer.isfinite().all():
        raise ConversionError("the network: expected finite features on the example, got inf or NaN")
    return answer


def _other_trial(network: fx.GraphModule, example: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], Tensor]]:
    """Other inputs in a larger batch and the answer of the network; nothing if the network takes no such inputs."""
    inputs = other_inputs(example, 1)
    try:
        answer = _answer(network, run(network, inputs))
    except Exception:  # for example lengths that must fit together
        return []
    return [(inputs, answer)]


def _check_same(body: Converted, example: tuple[Any, ...], answer: Tensor) -> None:
    """Check that the converted network with open gates computes the same as the plain network, to rounding.

    Open gates are exact ones, so it is the same function, written with other layers. A layer that was replaced by a
    wrong one shows in the answer unless the inputs hide it. So the inputs are the example, which may be all zeros, and
    other values that are all different in a larger batch, without a draw.

    Raises:
        ConversionError: the difference is larger than rounding.
    """
    with torch.no_grad(), evaluating(body), body.answering(OPEN):
        converted_answer = body(*example)
    change = difference(converted_answer, answer, SUMS)
    if change:
        raise ConversionError(
            f"the network: with open gates the converted network differs by {change:g}, more than rounding; does the "
            "network answer the same from call to call?"
        )


def _needed(analysis: Analysis, axes: Axes) -> Tensor:
    """[units] bool, see `Converted.needed`."""
    needed = torch.zeros(sum(gate.units for gate in axes.gates.values()), dtype=torch.bool)
    for labels in analysis.needed:
        units = axes.index(labels)
        needed[units[units >= 0]] = True
    return needed


def _ending(analysis: Analysis, axes: Axes) -> tuple[Gate | None, frozenset[Gate]]:
    """(tail, loose): the gate whose units are the features, in order; or else all gates whose units the heads read."""
    answer = analysis.answer
    if answer is None or answer.labels is None:
        return None, frozenset()
    labels = analysis.units.find(answer.labels.clamp(min=0))
    gates, index = axes.within(labels)
    if len(gates) == 1 and varying(labels) in ((labels.dim() - 1,), ()):  # (): the gate has a single unit
        index = index.reshape(-1, index.shape[-1])[0]
        gate = gates[0]
        if torch.equal(index, torch.arange(gate.units).repeat_interleave(len(index) // gate.units)):
            return gate, frozenset()
    return None, frozenset(gates)
