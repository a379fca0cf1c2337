"""Which node of the recorded graph a tensor or a number stands for.

Example: a module calls `h = x + 1` and then `h.mul_(2)`.

    before       the object `x` stands for the node `x`
    `h = x + 1`  a node `add` is made, and the new object `h` stands for `add`
    `h.mul_(2)`  a node `mul` is made, and the same object `h` stands for `mul` from now on

No memory is overwritten: the value of `add` on the example stays what it was. A tensor that shares memory with the old
`h`, such as a view taken before `mul_`, would show wrong values now, so it may not be read any more.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import base_types, map_arg

from hat.tracing.aliases import Memory
from hat.tracing.errors import ConversionError
from hat.tracing.sizes import Real, Size, number, plain
from hat.tracing.trees import rebuilt, replaced, tensors

# Functions that use the shape and the type of their first argument, but not its values.
_OF_SHAPE = {
    "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor",
    "zeros_like", "ones_like", "full_like", "empty_like",
}  # fmt: skip


class Nodes:
    """A graph that is being recorded, and the values of its nodes on the example.

    A tensor is identified by its Python object. If the network changes a tensor in place, the object stands for another
    node from then on.

    Args:
        module: the network.
        place: returns the place in the network that is running, for messages.

    Attributes:
        graph: the graph, as far as it is recorded.
        values: the value of every node on the example.
        targets: the modules and tensors that the graph refers to, by name.
        burnt: the places where sizes became plain numbers.
        decided: the outcomes of the comparisons that Python made of sizes of inputs, or of values made from inputs.
        outcomes: what the first of these comparisons answer, whatever the sizes are.
        constants: the places where the network used a tensor that no node made.
        device: the device of the inputs.
        active: whether numbers are recorded.
    """

    def __init__(self, module: nn.Module, place: Callable[[], str]) -> None:
        self.graph = fx.Graph()
        self.values: dict[fx.Node, Any] = {}
        self.targets: dict[str, Any] = {}
        self.burnt: list[str] = []
        self.decided: list[bool] = []
        self.outcomes: tuple[bool, ...] = ()
        self.constants: list[str] = []
        self.device: torch.device | None = None
        self.active = False
        self.place = place
        self._names: dict[int, str] = {}
        self._nodes: dict[int, fx.Node] = {}
        self._memory = Memory()  # keeps its tensors alive, so that no new tensor gets the `id` of one of them
        self._stale: dict[int, str] = {}
        self._sizes: dict[fx.Node, torch.Size] = {}
        self._depends: set[fx.Node] = set()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            self._names[id(tensor)] = name
            self._memory.add(tensor, tensor.detach())

    def refuse(self, reason: str) -> ConversionError:
        """An error with the place in the network that is running."""
        return ConversionError(f"{self.place()}: {reason}")

    # -- adding -----------------------------------------------------------------------------------------------------

    def placeholder(self, name: str, value: Any) -> Any:
        """Add an input; returns the input for the network, made of new tensor objects.

        If the input is a container, nodes take the tensors out of it.
        """
        node = self.graph.placeholder(name)
        value = replaced(value, lambda tensor: tensor.detach() if isinstance(tensor, Tensor) else tensor)
        first_tensor = next(tensors(value), None)
        if self.device is None and first_tensor is not None:
            self.device = first_tensor.device
        self._depends.add(node)
        return self._track(node, value)

    def output(self, value: Any) -> None:
        """Add the answer of the network. A mapping becomes a dict."""
        self.values[self.graph.output(self.argument(value))] = value

    def add(
        self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], compute: Callable[..., Any]
    ) -> Any:
        """Add a node and return its value on the example. The node is removed again if the value has no tensor.

        Args:
            op, target, args, kwargs: as in `torch.fx.Node`, with tensors and numbers in place of nodes.
            compute: (op, target, args, kwargs) -> the value; the arguments are the current values of the tensors.
        """
        node = self.graph.create_node(op, target, self.argument(args), self.argument(kwargs))
        node.meta["place"] = self.place()
        of_shape = op != "call_module" and getattr(target, "__name__", target) in _OF_SHAPE
        sources = [source for source in node.all_input_nodes if not of_shape or source is not node.args[0]]
        if any(source in self._depends for source in sources):
            self._depends.add(node)
        inputs, options = (map_arg(argument, self.values.__getitem__) for argument in (node.args, node.kwargs))
        value = compute(op, target, inputs, options)
        if next(tensors(value), None) is None:
            self.graph.erase_node(node)
            return value
        return self._track(node, self._new(value, {id(argument) for argument in tensors((inputs, options))}))

    def _new(self, value: Any, inputs: set[int]) -> Any:
        """New objects for tensors that stand for a node already, as a function may return its input.

        Args:
            value: what the function returned.
            inputs: the `id` of every tensor among its arguments.
        """

        def as_new_object(tensor: Any) -> Any:
            is_known = id(tensor) in inputs or id(tensor) in self._nodes or id(tensor) in self._names
            return tensor.detach() if isinstance(tensor, Tensor) and is_known else tensor

        return replaced(value, as_new_object)

    def _track(self, node: fx.Node, value: Any) -> Any:
        """Let `value` stand for `node`, and add a node for every tensor in a container. Returns the value."""
        self.values[node] = value
        if isinstance(value, Tensor):
            self._nodes[id(value)] = node
            self._memory.add(value, value)
        elif isinstance(value, dict):
            return {key: self._element(node, key, element) for key, element in value.items()}
        elif isinstance(value, tuple | list):
            return rebuilt(value, [self._element(node, index, element) for index, element in enumerate(value)])
        return value

    def _element(self, node: fx.Node, key: Any, value: Any) -> Any:
        """Add a node for `node[key]`, whose value is `value`, if there is a tensor in `value`."""
        if next(tensors(value), None) is None:
            return value
        element = self.graph.call_function(operator.getitem, (node, key))
        element.meta.update(node.meta)
        if node in self._depends:
            self._depends.add(element)
        return self._track(element, value)

    # -- tensors ----------------------------------------------------------------------------------------------------

    def of(self, tensor: Tensor) -> fx.Node:
        """The node that a tensor stands for. A tensor that no node made becomes an attribute of the graph.

        Raises:
            ConversionError: the values of the tensor were changed in place through another tensor.
        """
        if id(tensor) in self._stale:
            raise self.refuse(f"reads a tensor that was changed in place through another at {self._stale[id(tensor)]}")
        return self._nodes[id(tensor)] if id(tensor) in self._nodes else self._attribute(tensor)

    def _attribute(self, tensor: Tensor) -> fx.Node:
        """Add a node for a parameter, a buffer or a constant."""
        if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            raise self.refuse("torch.func and torch.vmap hide what they compute; write it for a whole batch")
        name = self._names.get(id(tensor))
        if name is None:
            name = f"_constant{len(self._nodes)}"
            self.constants.append(self.place())
        self.targets[name] = tensor if id(tensor) in self._names else tensor.detach()
        node = self.graph.get_attr(name)
        node.meta["place"] = self.place()
        if isinstance(tensor, nn.Parameter):
            self._depends.add(node)
        self._nodes[id(tensor)], self.values[node] = node, self.targets[name]
        self._memory.add(tensor, tensor)
        return node

    def value(self, tensor: Tensor) -> Tensor:
        """The current values of a tensor, after changes in place."""
        return self.values[self._nodes[id(tensor)]] if id(tensor) in self._nodes else tensor

    def depends(self, tensor: Tensor) -> bool:
        """Whether the values of a tensor depend on values of inputs or parameters, not only on sizes."""
        return self.of(tensor) in self._depends

    def name(self, tensor: Tensor | None) -> str | None:
        """The name of a parameter or buffer; None for any other tensor."""
        return self._names.get(id(tensor))

    def become(self, tensor: Tensor, result: Tensor, *, same_values: bool = False) -> Tensor:
        """Let the object `tensor` stand for the node of `result` from now on.

        Other tensors that share memory with `tensor` may not be read any more, unless `same_values`.

        Args:
            tensor: the object that the network changes in place.
            result: the new values.
            same_values: `result` has the values of `tensor` in another shape.

        Raises:
            ConversionError: `tensor` belongs to the network, as a parameter or a buffer does.
        """
        sharing = list(self._memory.sharing(self.value(tensor)))
        owned = [self._names[id(sharer)] for sharer, _ in sharing if id(sharer) in self._names]
        if owned or id(tensor) not in self._nodes or self._nodes[id(tensor)].op == "get_attr":
            raise self.refuse(f"changes {owned[0] if owned else 'a constant'} in place; make a new tensor")
        for sharer, values in () if same_values else sharing:
            if sharer is not tensor and sharer is not result and self.value(sharer) is values:
                self._stale.setdefault(id(sharer), self.place())
        self._nodes[id(tensor)] = self.of(result)
        self._memory.add(tensor, self.value(result))
        return tensor

    # -- numbers ----------------------------------------------------------------------------------------------------

    def sizes(self, tensor: Tensor) -> torch.Size:
        """The shape of a tensor, as sizes that know their nodes. Parameters, buffers and constants have plain sizes."""
        shape = self.value(tensor).shape
        node = self._nodes.get(id(tensor))
        if node is None or node.op == "get_attr":
            return shape
        if node not in self._sizes:
            shape_node = self._number(getattr, (node, "shape"), shape)
            elements = [self._number(operator.getitem, (shape_node, index), size) for index, size in enumerate(shape)]
            sizes = [number(size, element, self) for size, element in zip(shape, elements, strict=True)]
            self._sizes[node] = torch.Size(sizes)
        return self._sizes[node]

    def arithmetic(self, operation: Callable[..., Any], *numbers: Any) -> Any:
        """Compute and record `operation(*numbers)`, where at least one number is a `Size` or a `Real`."""
        value = operation(*map(plain, numbers))
        if not self.active:
            return value
        return number(value, self._number(operation, self.argument(numbers), value), self)

    def burn(self) -> None:
        """Note the place where a size becomes a plain number."""
        if self.active:
            self.burnt.append(self.place())

    def decide(self, node: fx.Node, outcome: bool) -> bool:
        """The answer of a comparison of a number that a node stands for. It is noted if the number is made from inputs.

        Args:
            node: the node.
            outcome: the answer for the sizes of the example.
        """
        if not self.active or not self.is_of_input(node):
            return outcome
        if len(self.decided) < len(self.outcomes):
            outcome = self.outcomes[len(self.decided)]
        self.decided.append(outcome)
        return outcome

    def is_of_input(self, node: fx.Node) -> bool:
        """Whether a node is made from inputs, also if only from their sizes."""
        sources, new = {node}, [node]
        while new:
            new = [source for known in new for source in known.all_input_nodes if source not in sources]
            sources.update(new)
        return any(source.op == "placeholder" for source in sources)

    def _number(self, function: Callable[..., Any], args: tuple[Any, ...], value: Any) -> fx.Node:
        node = self.graph.call_function(function, args)
        self.values[node] = value
        return node

    # -- arguments --------------------------------------------------------------------------------------------------

    def argument(self, value: Any) -> Any:
        """Turn a value into an argument of a node: tensors and sizes become their nodes, also inside of containers.

        Raises:
            ConversionError: a graph cannot hold the value.
        """
        if isinstance(value, Tensor):
            return self.of(value)
        if isinstance(value, Size | Real):
            return (value.nodes is self and value.node) or plain(value)
        if isinstance(value, tuple | list):
            return (list if type(value) is list else tuple)(map(self.argument, value))
        if isinstance(value, dict):
            return {key: self.argument(element) for key, element in value.items()}
        if isinstance(value, slice):
            return slice(*map(self.argument, (value.start, value.stop, value.step)))
        if isinstance(value, torch.device) and value == self.device:  # of the input, so that the graph can move
            return self._number(getattr, (self._input(), "device"), value)
        if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
            return value.item()
        if value is None or value is ... or isinstance(value, (*base_types, range)):
            return value
        raise self.refuse(f"expected tensors and plain values as arguments, got a {type(value).__name__}")

    def _input(self) -> fx.Node:
        return next(node for node, value in self.values.items() if isinstance(value, Tensor))
