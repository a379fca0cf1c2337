"""Where the units of a network go: every value of its graph gets the ids of the units that its elements belong to.

Data movement runs on the ids as it runs on the values, so a flatten, a shuffle or a window partition needs no rule of
its own. Where two units meet in a sum or a product they are one; where a weight takes units in, they are its columns.
What nobody knows is exact too: its inputs are gated, and its outputs belong to no unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from hat.conversion.units import Units
from hat.conversion.values import Claim, Value
from hat.tracing.errors import ConversionError
from hat.tracing.names import operation, place_of
from hat.tracing.trees import flat

Rule = Callable[["Analysis", fx.Node, tuple[Any, ...], dict[str, Any]], Any]
ModuleRule = Callable[["Analysis", fx.Node, Any, tuple[Any, ...], dict[str, Any]], Any]

ZERO = -1
"""The label of what is exactly 0 for every task, as the padding of a convolution."""


class Analysis:
    """What is known of the units of a graph.

    Args:
        network: the graph.
        concrete: the value of every node on the example; those of new nodes are added.
        rules: what an operation does to units, by its name; see `hat.conversion.rules`. A rule that answers None does
            not know this case.
        module_rule: the rule of a module, or None.
        per_head: the dimensions of a head of attention are one unit.
        is_excluded: of the name of a module.

    Attributes:
        units: the ids.
        values: of every node: a `Value` for a tensor, in tuples and dictionaries as the node has them.
        gates: the nodes whose value must be gated.
        joining: nodes whose value is gated by units that it does not have, behind its own gate, and their labels.
        claims: what lies along units, by module, name and dimension.
        unknown: the same keys, for a dimension that elsewhere takes what belongs to no unit.
        own: the names of the parameters that every task has for itself.
        answer: the value that the graph answers with, if it is one tensor.
        frozen: the names of the modules whose parameters nobody knows the units of.
        needed: ids of units that meet what depends on how many there are, or on what nobody knows: none may go or join.
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
        self.own: dict[str, None] = {}
        self.frozen: dict[str, None] = {}
        self.needed: list[Tensor] = []
        self.answer: Value | None = None
        self._ids: dict[tuple[Any, ...], Tensor] = {}
        self._nodes: dict[int, fx.Node] = {}
        self._dependent: set[fx.Node] = set()

    def run(self) -> Analysis:
        """Walk the graph once, forward."""
        for node in self.network.graph.nodes:
            self._visit(node)
        return self

    # -- what rules call ------------------------------------------------------------------------------------------

    def demand(self, value: Any) -> None:
        """What belongs to units that are off must be 0 from here on."""
        if isinstance(value, Value) and value.labels is not None and not value.gated and bool((value.labels > 0).any()):
            value.gated = True
            self.gates[self._nodes[id(value)]] = None

    def gate_as(self, value: Value, labels: Tensor) -> bool:
        """Gate a value by units that it does not have; False where others use it as it is."""
        node = self._nodes.get(id(value))
        if node is None or len(real_users(node)) > 1 or node in self.joining:
            return False
        self.joining[node] = labels
        return True

    def add(self, node: fx.Node, value: Value, concrete: Tensor) -> None:
        """A node that a rule has put before its own."""
        self.values[node], self.concrete[node] = value, concrete
        self._nodes[id(value)] = node
        if self._moves_with_inputs(node):
            self._dependent.add(node)

    def ids(self, *key: Any, shape: Iterable[int]) -> Tensor:
        """The ids of something that has a name, the same ones whenever it is asked for."""
        if key not in self._ids:
            self._ids[key] = self.units.new(*shape)
        return self._ids[key]

    def labels(self, value: Value) -> Tensor:
        """The labels of a value; of a parameter, an id for every element."""
        if value.labels is None and value.is_parameter:
            (name,) = value.parameters  # what was made of one has labels
            value.labels = self.ids("element", self.parameter(name), shape=value.shape)
        return value.ids

    def elements(self, parameter: nn.Parameter) -> Tensor | None:
        """The ids of the elements of a parameter; None if nobody asked for them."""
        return self._ids.get(("element", parameter))

    def parameter(self, name: str) -> nn.Parameter:
        """By its name in the graph."""
        return self.network.get_parameter(name)

    def claim(
        self, module: str, name: str, dim: int, ids: Tensor | None, *, groups: int = 1, locks: bool = True
    ) -> None:
        """A dimension of a parameter lies along units; along none if `ids` is None."""
        key = (module, name, dim)
        before = self.claims.pop(key, None)
        if ids is None or key in self.unknown:
            self.unknown.add(key)
            for lost in (ids, None if before is None else before.ids):
                if lost is not None:
                    self.units.fix(lost)  # the parameter does not move along
                    self.need(lost)
            return
        if before is not None:  # used twice: what is unknown once is unknown
            known = (before.ids > 0) & (ids > 0)
            self.units.fix(torch.where(known, 0, torch.maximum(before.ids, ids)))
            ids = torch.where(known, ids, 0)
        self.claims[key] = Claim(module, name, dim, ids, groups, locks)

    def depends(self, value: Value) -> bool:
        """It is another one for other inputs of the same shape, or for another task."""
        return self._nodes[id(value)] in self._dependent

    def make_own(self, value: Value) -> None:
        """The parameters of a value meet no unit: every task has its own, of those that are not large.

        A large one stays what it is: along no gate, and so frozen when the first task ends.
        """
        for name in value.parameters:
            self.own[name] = None

    def need(self, labels: Tensor) -> None:
        """These units stay as many as they are."""
        self.needed.append(labels.unique())

    def lose(self, *values: Any) -> None:
        """Units meet what nobody knows: they are gated before, and keep their places."""
        for value in values:
            if isinstance(value, Value):
                self.make_own(value)
                if not value.is_parameter and value.labels is not None:
                    self.demand(value)
                    self.units.fix(value.labels.clamp(min=0))
                    self.need(value.labels)

    # -- the walk -------------------------------------------------------------------------------------------------

    def _visit(self, node: fx.Node) -> None:
        if node.op == "output":
            found = fx.map_arg(node.args[0], lambda n: self.values[n])
            self.answer = found if isinstance(found, Value) else None
            for each in tensors(found):
                self.demand(each)
                each.labels = None if each.labels is None else self.units.resolved(each.labels)
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
        """An input, or what another task may have otherwise: a parameter, what a layer makes of constants."""
        if node.op == "get_attr":
            return isinstance(self._named(node), nn.Parameter)
        if node.op == "call_module":
            return any(True for _ in self.network.get_submodule(str(node.target)).parameters())
        return node.op == "placeholder"

    def _moves_with_inputs(self, node: fx.Node) -> bool:
        return operation(node) not in _LOOKS and any(each in self._dependent for each in node.all_input_nodes)

    def _compute(self, node: fx.Node) -> Any:
        concrete = self.concrete.get(node)
        if node.op == "placeholder":
            return plain(concrete)
        if node.op == "get_attr":
            return self._attribute(node)
        args, kwargs = self._arguments(node)
        for value in tensors((args, kwargs)):
            if value.labels is not None:  # units may have become one since
                value.labels = self.units.resolved(value.labels)
        if node.op == "call_module":
            return self._module(node, args, kwargs)
        if not any(True for _ in tensors(concrete)):
            return concrete
        if not any(v.labels is not None or v.is_parameter for v in tensors((args, kwargs))):
            return plain(concrete)
        name = operation(node)
        rule = self.rules.get(name) if name is not None else None
        found = None if rule is None else rule(self, node, args, kwargs)
        return self._unknown(node, args, kwargs) if found is None else found

    def _attribute(self, node: fx.Node) -> Any:
        found = self._named(node)
        if isinstance(found, nn.Parameter):
            return Value(found.shape, parameters=frozenset({str(node.target)}))
        return plain(found)

    def _named(self, node: fx.Node) -> Any:
        found: Any = self.network
        for part in str(node.target).split("."):
            found = getattr(found, part)
        return found

    def _arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = fx.map_arg(node.args, lambda n: self.values[n])
        kwargs = fx.map_arg(node.kwargs, lambda n: self.values[n])
        return args, kwargs

    def _module(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = str(node.target)
        module = self.network.get_submodule(name)
        rule = None if self.is_excluded(name) else self.module_rule(module)
        found = None if rule is None else rule(self, node, module, args, kwargs)
        if found is not None:
            return found
        if any(True for _ in module.parameters()):
            self._refuse_unknown(node, module)
            self.frozen[name] = None
        return self._unknown(node, args, kwargs)

    def _refuse_unknown(self, node: fx.Node, module: nn.Module) -> None:
        name = str(node.target)
        if not self.is_excluded(name):
            raise ConversionError(
                f"{place_of(node)}: nobody knows the units of the parameters of a {type(module).__name__}; write it with "
                "linear layers, convolutions, embeddings and attention, or exclude it by `filter`: it is then frozen "
                "when the first task ends"
            )
        for path, part in module.named_modules():
            if getattr(part, "running_mean", None) is not None:
                place = f"{name}.{path}" if path else name
                raise ConversionError(
                    f"{place}: excluded, but its running statistics would go on to change; exclude the parts around it "
                    "only, or set it to track none"
                )

    def _unknown(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.lose(*tensors((args, kwargs)))
        return plain(self.concrete.get(node))


def tensors(value: Any) -> Iterable[Any]:
    """The `Value`s or tensors anywhere in nested tuples, lists and dictionaries."""
    return (element for element in flat(value) if isinstance(element, Value | Tensor))


def plain(concrete: Any) -> Any:
    """The same with `Value`s, of no units, for tensors."""
    if isinstance(concrete, Tensor):
        return Value(concrete.shape)
    if isinstance(concrete, Mapping):
        return {key: plain(value) for key, value in concrete.items()}
    if isinstance(concrete, tuple | list):
        return tuple(plain(value) for value in concrete)
    return concrete


def real_users(node: fx.Node) -> list[fx.Node]:
    """The nodes that use what it holds, and not its shape only."""
    return [user for user in node.users if operation(user) not in _LOOKS]


_LOOKS = frozenset({"shape", "size", "dim", "ndim", "numel", "dtype", "device", "is_cuda", "requires_grad"})
