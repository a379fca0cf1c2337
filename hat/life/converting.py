"""`hat.convert`: turn any network into a model that learns task after task."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal

from torch import nn

from hat.conversion.api import convert_body
from hat.life.model import HATModel
from hat.network.processes import ProcessGroup
from hat.network.sharded import refuse_sharded
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

    Parameters that are frozen (`requires_grad` False), as the base under adapters, are not trained. Their units keep
    their places as long as the model remembers a task, so that they keep every bit.

    Args:
        module: any network that returns one tensor. The model keeps its mode, dtype and device.
        example_input: a tensor or a tuple of tensors, the arguments of a call, with a batch of two or more samples.
        head: the linear layer that is removed, because every task gets a head of its own. `"last"`: the layer that
            makes the output. A name: the layer with this name. None: no layer is removed, and heads read the output.
        filter: (module, name) -> whether to convert the module. The parameters of a module that is not converted are
            frozen when the first task ends, with an `UnlockedWarning`.
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
        TypeError: `module` is not a module, `filter` is not a function, `config` is not a `GateConfig`, `process_group`
            is no group, or a parameter is spread over several processes, as by `fully_shard`.
        ValueError: an option is out of range, or the network or the example has no values.
    """
    if pretrained not in PRETRAINED:
        raise ValueError(f"pretrained: expected one of {PRETRAINED}, got {pretrained!r}")
    if config is not None and not isinstance(config, GateConfig):
        raise TypeError(f"config: expected a hat.GateConfig, got {type(config).__name__}")
    if isinstance(module, nn.Module):
        refuse_sharded(module.named_parameters, "module")
    if copy:
        module = deepcopy(module)
    body = convert_body(module, example_input, head=head, filter=filter, per_head=per_head)
    model = HATModel(body, config=config, process_group=process_group)
    if pretrained == "locked":
        for gate in model.gates.values():
            gate.reserve()
    model.training = model.heads.training = module.training
    return model
