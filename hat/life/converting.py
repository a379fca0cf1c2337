"""`hat.convert`: turn any network into a model that learns task after task."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal

from torch import Tensor, nn

from hat.arguments import check_choice, check_switch, check_type, got
from hat.conversion.api import convert_body
from hat.life.model import HATModel
from hat.network.processes import ProcessGroup
from hat.network.sharded import refuse_sharded
from hat.tracing.trees import tensors
from hat.units.state import GateConfig

PRETRAINED = ("free", "locked")


def convert(
    module: nn.Module,
    example_input: Any,
    *,
    head: str | None = "last",
    filter: Callable[[nn.Module, str], bool] | None = None,
    pretrained: str = "free",
    per_head: bool = False,
    copy: bool = False,
    config: GateConfig | None = None,
    process_group: ProcessGroup | Literal["default"] | None = "default",
) -> HATModel:
    """Make a network learn one task after another and forget nothing (Serrà et al., ICML 2018).

    The network itself is used up: the model trains its parameters, moves its units, and changes their number. Call the
    model from now on, not the network; or pass `copy=True`, which leaves the network as it is.

    The network runs on the example, and the calls that it makes are recorded. The units of its layers are followed
    through the recorded graph, and every axis of units gets one gate. Layers whose outputs are summed share a gate.
    Gates of concatenated outputs lie side by side. Every task gets norms of its own. The parameters of all other layers
    are shared with the network, and are locked where finished tasks use them. With open gates the model computes what
    the network computes.

    In training, the model has the dropout, the stochastic depth and the norms of the network. Whatever else the network
    does in training only is lost: a `TrainingOnlyWarning` lists random numbers, checkpoints of activations and other
    calculations by place. A network that changes a state in training, such as a running mean of its own, is refused.

    Parameters that are frozen (`requires_grad` False), as the base under adapters, are not trained. Their units keep
    their places as long as the model remembers a task, so that they keep every bit.

    Args:
        module: any network that returns one tensor. The model keeps its dtype and device. Each part of the model has
            the mode that it has in the network, until `begin_task`, `train` or `eval` sets one mode for all parts. The
            conversion changes no mode of the network.
        example_input: a tensor or a tuple of tensors, the arguments of a call, with a batch of two or more samples.
        head: the linear layer that is removed, because every task gets a head of its own. `"last"`: the layer that
            makes the output. A name: the same, and the layer must have this name. None: no layer is removed, and heads
            read the output.
        filter: (module, name) -> whether to convert the module. The parameters of a module that is not converted are
            frozen when the first task ends, with an `UnlockedWarning`. What it does in training only, it does still.
        pretrained: `"free"`: tasks may change what the network has learned so far, until a finished task uses it.
            `"locked"`: no task may change it; tasks learn which units to use, their norms and their heads.
        per_head: one unit for each head of attention, instead of one for each of its dimensions.
        copy: convert a deep copy of the network, and leave the network itself as it is.
        config: how gates are learned and committed; by default `GateConfig()`.
        process_group: the processes that hold the same model, see `hat.HATModel`.

    Returns:
        A model whose body is the converted network; see `hat.summary`.

    Raises:
        ConversionError: something in the network cannot be converted. The message names the place, the reason and what
            to write instead.
        TypeError: `module` is not a module, the example has no tensor, `head` is not a name, `filter` is not a function
            of two arguments, `config` is not a `GateConfig`, `process_group` is no group, or a parameter is spread over
            several processes, as by `fully_shard`.
        ValueError: an option is out of range, the network or the example has no values, or the network cannot be
            copied for `copy=True`.
    """
    check_type("module", module, nn.Module, "a torch.nn.Module")
    _check_example(example_input)
    check_type("head", head, (str, type(None)), 'the name of a layer, "last" or None')
    _check_filter(filter)
    check_choice("pretrained", pretrained, PRETRAINED)
    check_switch("per_head", per_head)
    check_switch("copy", copy)
    check_type("config", config, (GateConfig, type(None)), "a hat.GateConfig or None")
    refuse_sharded(module.named_parameters, "module")
    if copy:
        module = _copied(module)
    body = convert_body(module, example_input, head=head, filter=filter, per_head=per_head)
    model = HATModel(body, config=config, process_group=process_group)
    if pretrained == "locked":
        for gate in model.gates.values():
            gate.reserve()
    model.training = model.heads.training = module.training
    return model


def _check_example(example_input: Any) -> None:
    """Check that an example has a tensor somewhere; whether the network takes it is seen when the network runs.

    Raises:
        TypeError: it has none.
    """
    if not any(isinstance(value, Tensor) for value in tensors(example_input)):
        raise TypeError(
            "example_input: expected a tensor, or a tuple of the arguments of a call, with a tensor among them, "
            f"got {got(example_input)}"
        )


def _check_filter(filter: Any) -> None:
    """Check that a filter takes two arguments.

    Raises:
        TypeError: it does not, or is no function.
    """
    if filter is None:
        return
    expected = "filter: expected a function of (module, name)"
    if not callable(filter):
        raise TypeError(f"{expected}, got {got(filter)}")
    try:
        signature = inspect.signature(filter)
    except ValueError:  # of a function that does not tell, as some that are written in C
        return
    try:
        signature.bind(nn.Module(), "")
    except TypeError as error:
        raise TypeError(f"{expected}, got one that takes {signature}: {error}") from None


def _copied(module: nn.Module) -> nn.Module:
    """A deep copy of the network.

    Raises:
        ValueError: it cannot be copied.
    """
    try:
        return deepcopy(module)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"copy: expected a network that copy.deepcopy takes, got {type(error).__name__}: {reason}; "
            "make the copy yourself, or pass copy=False"
        ) from error
