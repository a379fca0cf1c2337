"""How units are followed through a network: every element of every tensor gets the id of the unit that it belongs to.

A tensor in the graph is a `Value`, and its ids are its labels. The graph is walked once, forward, and a rule says what
an operation does to labels (`hat.conversion.rules`):

- A layer gives new ids to its outputs. The ids of the columns of its weight are united with the labels of its input.
- An operation that moves data, as a flatten or a shuffle, is run on the labels as it is run on the values.
- Two units that meet in a sum, or element by element in a product, are united: they become one unit.
- If no rule knows an operation, its inputs are gated, and its outputs belong to no unit (label 0). The network then
  still computes the same, but the units in front of that operation keep their places.

Example: a residual block, a flatten and a linear layer, with an input of one channel and 2 by 2 pixels.

    conv = nn.Conv2d(1, 2, 3, padding=1)
    inner = nn.Conv2d(2, 2, 3, padding=1)
    linear = nn.Linear(8, 3)

    h = torch.relu(conv(x))
    h = h + inner(h)
    return linear(h.flatten(1))

    node     shape         labels of one sample       what happens
    x        [1, 1, 2, 2]  none                       an input belongs to no unit
    conv     [1, 2, 2, 2]  1 1 1 1, 2 2 2 2           new ids: rows of the weight 1 2, bias 3 4. Unite 1 3, 2 4
    relu     [1, 2, 2, 2]  1 1 1 1, 2 2 2 2           must be gated, because two nodes use the value
    inner    [1, 2, 2, 2]  7 7 7 7, 8 8 8 8           new ids: columns 5 6, rows 7 8, bias 9 10. Unite 5 1, 6 2
                                                      (the columns read units 1 and 2) and 7 9, 8 10
    add      [1, 2, 2, 2]  1 1 1 1, 2 2 2 2           unite 7 1, 8 2: unit 7 is added to unit 1. `relu` is gated, so
                                                      `inner` must be gated too. Then the sum needs no gate
    flatten  [1, 8]        1 1 1 1 2 2 2 2            run on the labels
    linear   [1, 3]        19 20 21                   new ids: columns 11 to 18, rows 19 20 21, bias 22 23 24. Unite
                                                      11 12 13 14 with 1, and 15 16 17 18 with 2. The answer of the
                                                      network must be gated

At the end there are five classes of ids, the units: 1 (with 3, 5, 7, 9, 11 to 14), 2 (with 4, 6, 8, 10, 15 to
18), 19 (with 22), 20 (with 23) and 21 (with 24). Every use of a parameter is a `Claim`: dimension 1 of linear.weight
has the units 1 1 1 1 2 2 2 2. Units with the same claims share one gate (`hat.conversion.axes`):

    gate conv    2 units   conv.weight 0, conv.bias 0, inner.weight 1, inner.weight 0, inner.bias 0,
                           linear.weight 1 (repeat=4)
    gate linear  3 units   linear.weight 0, linear.bias 0

The residual stream has one gate, although three layers make and read it. The values of `relu`, `inner` and `linear` are
gated. In the new graph (`hat.conversion.rewrite`) the layers `conv`, `inner` and `linear` apply these gates themselves,
and `conv` takes in the ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.conversion.units import Units
from hat.conversion.values import Claim, Value
from hat.text import dotted
from hat.tracing.errors import ConversionError
from hat.tracing.names import operation, place_of, placed
from hat.tracing.trees import flat

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
"""The arguments of a call, with a `Value` in place of every tensor."""
Rule = Callable[["Analysis", fx.Node, Args, Kwargs], Any]
ModuleRule = Callable[["Analysis", fx.Node, Any, Args, Kwargs], Any]
"""The rule of an operation, and the rule of a module, which gets the module too; see `hat.conversion.rules`."""

ZERO = -1
"""The label of elements that are exactly 0 for every task, as a padding with zeros."""


class Analysis:
    """The units in the values and parameters of a graph.

    Args:
        network: the graph.
        concrete: the value of every node on the example. The analysis adds the values of nodes that it inserts.
        rules: for the name of an operation, the rule of what it does to units; see `hat.conversion.rules`. A rule
            answers None if it does not know the case.
        module_rule: gives the rule of a module, or None.
        per_head: all dimensions of a head of attention are one unit.
        is_excluded: says of the name of a module whether the user has excluded it.

    Attributes:
        units: the ids.
        values: for every node, a `Value` in place of every tensor, in the tuples and dictionaries of the node.
        gates: the nodes whose value must be gated. The dictionary serves as an ordered set.
        joining: nodes whose value must be gated by units that the value itself does not have, and the labels of these
            units. This gate comes behind the node's own gate.
        claims: the parameters that lie along units, by (module, name, dimension).
        unknown: the keys (module, name, dimension) of dimensions that meet elements of no unit in some use.
        per_task: the names of the parameters that every task has for itself, and the place in the network that is the
            reason.
        answer: the value that the graph answers with, if it is one tensor.
        frozen: the names of the modules whose parameters belong to no known unit. They are frozen when the first task
            ends. The dictionary serves as an ordered set.
        needed: ids of units that may not go, and that no other units may join: the network computes something from
            their number, or no rule knows an operation that they meet.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        concrete: MutableMapping[fx.Node, Any],
        *,
        rules: Mapping[str, Rule],
        module_rule: Callable[[nn.Module], ModuleRule | None],
        per_head: bool = False,
        is_excluded: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.network, self.concrete = network, concrete
        self.rules, self.module_rule = rules, module_rule
        self.per_head, self.is_excluded = per_head, is_excluded
        self.units = Units()
        self.values: dict[fx.Node, Any] = {}
        self.gates: dict[fx.Node, None] = {}
        self.joining: dict[fx.Node, Tensor] = {}
        self.claims: dict[tuple[str, str, int], Claim] = {}
        self.unknown: set[tuple[str, str, int]] = set()
        self.per_task: dict[str, str] = {}
        self.frozen: dict[str, None] = {}
        self.needed: list[Tensor] = []
        self.answer: Value | None = None
        self._ids: dict[tuple[Any, ...], Tensor] = {}
        self._nodes: dict[int, fx.Node] = {}
        self._dependent: set[fx.Node] = set()
        self._place = ""

    def run(self) -> Analysis:
        """Walk the graph once, forward."""
        for node in self.network.graph.nodes:
            self._place = place_of(node)
            with placed(node):
                self._visit(node)
        return self

    # -- what rules call ------------------------------------------------------------------------------------------

    def demand(self, value: Any) -> None:
        """Gate a value: behind its node, the elements of units that are off must be 0."""
        if isinstance(value, Value) and value.labels is not None and not value.gated and bool((value.labels > 0).any()):
            value.gated = True
            self.gates[self._nodes[id(value)]] = None

    def gate_as(self, value: Value, labels: Tensor) -> bool:
        """Gate a value by units that the value itself does not have; False if other nodes need the ungated value."""
        node = self._nodes.get(id(value))
        if node is None or len(real_users(node)) > 1 or node in self.joining:
            return False
        self.joining[node] = labels
        return True

    def add(self, node: fx.Node, value: Value, concrete: Tensor) -> None:
        """Add a node that a rule has inserted in front of its own node, with its value and the value on the example."""
        self.values[node], self.concrete[node] = value, concrete
        self._nodes[id(value)] = node
        if self._moves_with_inputs(node):
            self._dependent.add(node)

    def ids(self, *key: Any, shape: Iterable[int]) -> Tensor:
        """The ids for a key: new ids [*shape] at the first call, the same ids at every later call."""
        if key not in self._ids:
            self._ids[key] = self.units.new(*shape)
        return self._ids[key]

    def labels(self, value: Value) -> Tensor:
        """The labels of a value. Every element of a parameter gets an id of its own."""
        if value.labels is None and value.is_parameter:
            (name,) = value.parameters  # a value that was computed from several parameters has labels already
            value.labels = self.ids("element", self.parameter(name), shape=value.shape)
        return value.ids

    def elements(self, parameter: nn.Parameter) -> Tensor | None:
        """The ids of the elements of a parameter; None if no rule has asked for them."""
        return self._ids.get(("element", parameter))

    def parameter(self, name: str) -> nn.Parameter:
        """The parameter of this name in the graph."""
        return self.network.get_parameter(name)

    def claim(
        self, module: str, name: str, dim: int, ids: Tensor | None, *, groups: int = 1, locks: bool = True
    ) -> None:
        """Say that a dimension of a parameter lies along units; `ids` None: along no unit.

        If a parameter is used twice, the units of both uses are united. An index that belongs to no unit in one of the
        uses belongs to no unit.
        """
        key = (module, name, dim)
        before = self.claims.pop(key, None)
        if ids is None or key in self.unknown:
            self.unknown.add(key)
            for lost in (ids, None if before is None else before.ids):
                if lost is not None:
                    self.units.fix(lost)  # because the parameter does not move with them
                    self.need(lost)
            return
        if before is not None:
            in_both = (before.ids > 0) & (ids > 0)
            self.units.fix(torch.where(in_both, 0, torch.maximum(before.ids, ids)))
            ids = torch.where(in_both, ids, 0)
        self.claims[key] = Claim(module, name, dim, ids, groups, locks)

    def depends(self, value: Value) -> bool:
        """Whether the value changes with the inputs (of the same shape), or with the task."""
        return self._nodes[id(value)] in self._dependent

    def make_per_task(self, value: Value) -> None:
        """Make the parameters of a value per-task parameters, because they lie along no unit.

        A large parameter is not copied for every task (`hat.conversion.tables.LARGEST_PER_TASK`). It is frozen when the
        first task ends.
        """
        for name in value.parameters:
            self.per_task.setdefault(name, self._place)

    def need(self, labels: Tensor) -> None:
        """Keep the number of these units: none of them may go, and no unit may join them."""
        self.needed.append(labels.unique())

    def lose(self, *values: Any) -> None:
        """Gate values in front of an operation that no rule knows. Their units keep their places and their number."""
        for value in values:
            if isinstance(value, Value):
                self.make_per_task(value)
                if not value.is_parameter and value.labels is not None:
                    self.demand(value)
                    self.units.fix(value.labels.clamp(min=0))
                    self.need(value.labels)

    # -- the walk -------------------------------------------------------------------------------------------------

    def _visit(self, node: fx.Node) -> None:
        if node.op == "output":
            answer = fx.map_arg(node.args[0], lambda n: self.values[n])
            self.answer = answer if isinstance(answer, Value) else None
            for value in tensors(answer):
                self.demand(value)
                value.labels = None if value.labels is None else self.units.resolved(value.labels)
            return
        if self._is_source(node) or self._moves_with_inputs(node):
            self._dependent.add(node)
        value = self._compute(node)
        self.values[node] = value
        if isinstance(value, Value):
            self._nodes[id(value)] = node
            if not value.is_parameter and len(real_users(node)) > 1:
                self.demand(value)

    def _is_source(self, node: fx.Node) -> bool:
        """Whether a node gives values that differ by input or task: an input, a parameter, a layer with parameters."""
        if node.op == "get_attr":
            return isinstance(self._named(node), nn.Parameter)
        if node.op == "call_module":
            return any(True for _ in self.network.get_submodule(str(node.target)).parameters())
        return node.op == "placeholder"

    def _moves_with_inputs(self, node: fx.Node) -> bool:
        return operation(node) not in _LOOKS and any(source in self._dependent for source in node.all_input_nodes)

    def _compute(self, node: fx.Node) -> Any:
        concrete = self.concrete.get(node)
        if node.op == "placeholder":
            return plain(concrete)
        if node.op == "get_attr":
            return self._attribute(node)
        args, kwargs = self._arguments(node)
        for value in tensors((args, kwargs)):
            if value.labels is not None:  # units may have been united since
                value.labels = self.units.resolved(value.labels)
        if node.op == "call_module":
            return self._module(node, args, kwargs)
        if not any(True for _ in tensors(concrete)):
            return concrete
        if not any(v.labels is not None or v.is_parameter for v in tensors((args, kwargs))):
            return plain(concrete)
        name = operation(node)
        rule = self.rules.get(name) if name is not None and not _is_complex(concrete) else None
        result = None if rule is None else rule(self, node, args, kwargs)
        return self._unknown(node, args, kwargs) if result is None else result

    def _attribute(self, node: fx.Node) -> Any:
        attribute = self._named(node)
        if isinstance(attribute, nn.Parameter):
            return Value(attribute.shape, parameters=frozenset({str(node.target)}))
        return plain(attribute)

    def _named(self, node: fx.Node) -> Any:
        return reduce(getattr, str(node.target).split("."), self.network)

    def _arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = fx.map_arg(node.args, lambda n: self.values[n])
        kwargs = fx.map_arg(node.kwargs, lambda n: self.values[n])
        return args, kwargs

    def _module(self, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
        name = str(node.target)
        module = self.network.get_submodule(name)
        followed = not self.is_excluded(name) and not _is_complex(self.concrete.get(node))
        rule = self.module_rule(module) if followed else None
        result = None if rule is None else rule(self, node, module, args, kwargs)
        if result is not None:
            return result
        if any(True for _ in module.parameters()):
            self._refuse_unknown(node, module)
            self.frozen[name] = None
        return self._unknown(node, args, kwargs)

    def _refuse_unknown(self, node: fx.Node, module: nn.Module) -> None:
        name = str(node.target)
        if not self.is_excluded(name):
            raise ConversionError(
                f"{place_of(node)}: nobody knows the units of the parameters of a {type(module).__name__}; write it "
                "with linear layers, convolutions, embeddings and attention, or exclude it by `filter`: it is then "
                "frozen when the first task ends"
            )
        for path, part in module.named_modules():
            if getattr(part, "running_mean", None) is not None:
                place = dotted(name, path)
                raise ConversionError(
                    f"{place}: is excluded, but training would change its running statistics; do not exclude this "
                    "module, or set track_running_stats=False"
                )

    def _unknown(self, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
        self.lose(*tensors((args, kwargs)))
        return plain(self.concrete.get(node))


def tensors(value: Any) -> Iterable[Any]:
    """The `Value`s or tensors anywhere in nested tuples, lists and dictionaries."""
    return (element for element in flat(value) if isinstance(element, Value | Tensor))


def _is_complex(concrete: Any) -> bool:
    """Whether a value has complex numbers, which no gate multiplies: no unit is followed into it."""
    return any(tensor.is_complex() for tensor in tensors(concrete) if isinstance(tensor, Tensor))


def plain(concrete: Any) -> Any:
    """The same object with a `Value` without units in place of every tensor."""
    if isinstance(concrete, Tensor):
        return Value(concrete.shape)
    if isinstance(concrete, Mapping):
        return {key: plain(value) for key, value in concrete.items()}
    if isinstance(concrete, tuple | list):
        return tuple(plain(value) for value in concrete)
    return concrete


def real_users(node: fx.Node) -> list[fx.Node]:
    """The nodes that use the elements of a node, not only its shape or dtype."""
    return [user for user in node.users if operation(user) not in _LOOKS]


_LOOKS = frozenset({"shape", "size", "dim", "ndim", "numel", "dtype", "device", "is_cuda", "requires_grad"})
