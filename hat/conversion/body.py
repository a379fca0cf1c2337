"""A converted network, as the body of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from hat.arguments import got
from hat.tracing.trees import flat
from hat.units.gate import Gate
from hat.units.layout import Layout
from hat.units.state import Answer
from hat.units.wired import Wired


class Converted(nn.Module, Wired):
    """A converted network: the graph of the network with gates, and with the network's own parameters.

    Attributes:
        network: the graph.
        gates: the gate of every axis of units, by the name of the first layer that makes the units.
        head: the name that the removed head had, or None.
        tail: the gate whose units are the features, in order, or None.
        loose: gates whose units the heads read in another order, or among other features.
        features: the length of the last dimension of the features.
        layouts: by the name of a node, where the units lie in its value. Units are counted through all gates in order.
            Nodes without units are left out. A node that answers with a tuple has a tuple of layouts.
        needed: [units] bool, for all gates in order: the unit may not go, and no unit may join it.
        example: inputs of the network, on the device and in the dtype that the network had at first; see `inputs`.
        reasons: see `Wired`.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        gates: dict[str, Gate],
        *,
        features: int,
        head: str | None,
        tail: Gate | None,
        loose: frozenset[Gate],
        layouts: dict[str, Any],
        needed: Tensor,
        example: tuple[Any, ...],
        reasons: dict[str, tuple[str, str]],
    ) -> None:
        super().__init__()
        self.network = network
        self.gates = nn.ModuleDict(gates)
        self.features, self.head, self.loose = features, head, loose
        self.__dict__["tail"] = tail  # one of the gates
        self.layouts, self.needed, self.example = layouts, needed, example
        self.reasons = reasons
        self.__dict__["_made"] = tuple(network.modules())

    @property
    def answer(self) -> Layout | None:
        """Where the units lie in the features; None if the features have none."""
        (node,) = self.network.graph.output_node().args
        return self.layouts.get(node.name) if isinstance(node, fx.Node) else None

    def inputs(self) -> tuple[Any, ...]:
        """The example on the device and in the dtype that the network has now."""
        like = next((p for p in self.network.parameters() if p.is_floating_point()), None)
        if like is None:
            return self.example
        inputs: tuple[Any, ...] = tree_map_only(
            Tensor, lambda x: x.to(like.device, like.dtype if x.is_floating_point() else x.dtype), self.example
        )
        return inputs

    def forward(self, *inputs: Any) -> Tensor:
        """The inputs of the network to its features [..., features]. Several inputs may come as one tuple."""
        if len(inputs) == 1 and isinstance(inputs[0], tuple):  # a model passes its inputs on as a tuple
            (inputs,) = inputs
        try:
            # The `__call__` of a graph module would print every error.
            features: Tensor = nn.Module.__call__(self.network, *inputs)
        except (AttributeError, TypeError, IndexError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError):
                self._check_inputs(inputs)
            raise
        return features

    def _check_inputs(self, inputs: tuple[Any, ...]) -> None:
        """Say what is wrong with inputs that have failed, if they are unlike the example.

        Raises:
            TypeError: the inputs have another structure than the example, or another class or kind of numbers.
            ValueError: a tensor has another number of dimensions, other lengths behind the batch, or another device.
        """
        examples = self.inputs()
        expected, given = list(flat(examples)), list(flat(inputs))
        if len(expected) != len(given):
            raise TypeError(f"x: expected {len(expected)} inputs as in the conversion, got {len(given)}")
        for example, value in zip(expected, given, strict=True):
            if not isinstance(example, Tensor):
                continue
            if not isinstance(value, Tensor) or value.is_sparse or value.is_complex() != example.is_complex():
                raise TypeError(f"x: expected {got(example)}, as in the conversion, got {got(value)}")
            if value.shape[1:] != example.shape[1:] or value.dim() != example.dim():
                raise ValueError(
                    f"x: expected {got(example)}, as in the conversion, except for the batch, got {got(value)}"
                )
            if value.dtype != example.dtype:
                raise TypeError(f"x: expected {example.dtype}, got {value.dtype}")
            if value.device != example.device:
                raise ValueError(f"x: expected a tensor on {example.device}, got one on {value.device}")

    @contextmanager
    def answering(self, answer: Answer) -> Iterator[None]:
        """Let all gates answer for `answer` inside the `with` block.

        This works before a model owns the gates, when every gate still has a state of its own.
        """
        with ExitStack() as stack:
            for state in {gate.state for gate in self.gates.values() if isinstance(gate, Gate)}:
                stack.enter_context(state.answering(answer))
            yield

    def complete(self) -> dict[Gate, bool]:
        """See `Wired.complete`: no gate is complete if a module of the graph was replaced or has hooks."""
        intact = self._is_intact()
        return {gate: intact and gate not in self.loose for gate in self.gates.values() if isinstance(gate, Gate)}

    def seen_by_heads(self) -> set[Gate]:
        """See `Wired.seen_by_heads`: the loose gates, if their units lie along the last dimension only."""
        answer = self.answer
        last = answer is not None and answer.varying == (len(answer.shape) - 1,)
        return set(self.loose) if last and self._is_intact() else set()

    def _is_intact(self) -> bool:
        modules = tuple(self.network.modules())
        return modules == self._made and not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
