"""`hat.convert`: from any network to a model that learns task after task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from hat.conversion.api import convert_body
from hat.life.model import HATModel
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
    config: GateConfig | None = None,
) -> HATModel:
    """Make a network learn one task after another and forget nothing (Serrà et al., ICML 2018).

    The network is recorded on the example, its units are followed through it, and every axis of units gets one gate:
    layers whose outputs are summed share one, what is concatenated lies side by side. Norms become every task's own.
    The parameters of all other layers are shared with the network, not copied, and locked where finished tasks use
    them. With open gates the result computes what the network computes.

    Args:
        module: any network that answers with one tensor; in the mode, dtype and device in which it is.
        example_input: a tensor or a tuple of them, the arguments of a call; a batch of two or more.
        head: the linear layer that is taken off, as every task has a head of its own: `"last"`, the one that answers;
            the name of one; or None, nothing is taken off, and heads stand on what the network answers.
        filter: (module, name) -> whether to convert a module; where it says no, parameters are frozen when the first
            task ends, with an `UnlockedWarning`.
        pretrained: `"free"`, tasks may change what the network has learned so far, until they use it; or `"locked"`,
            no task may: they learn which units to use, their norms and their heads.
        per_head: the dimensions of a head of attention are one unit.
        config: how gates are learned and committed; by default `GateConfig()`.

    Returns:
        A model whose body is the converted network; see `hat.summary`.

    Raises:
        ConversionError: something in the network cannot be converted; the message names the place, the reason and what
            to write instead.
        TypeError: `module` is not a module, `filter` no function, `config` no `GateConfig`.
        ValueError: an option out of range; the network or the example has no values.
    """
    if pretrained not in PRETRAINED:
        raise ValueError(f"pretrained: expected one of {PRETRAINED}, got {pretrained!r}")
    if config is not None and not isinstance(config, GateConfig):
        raise TypeError(f"config: expected a hat.GateConfig, got {type(config).__name__}")
    body = convert_body(module, example_input, head=head, filter=filter, per_head=per_head)
    model = HATModel(body, config=config)
    if pretrained == "locked":
        for gate in model.gates.values():
            gate.reserve()
    return model.train(module.training)
