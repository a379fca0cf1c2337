"""Which node of a graph a tensor or a number is."""

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

# Their first argument says how large and of what type, not what is in them.
_OF_SHAPE = {
    "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor",
    "zeros_like", "ones_like", "full_like", "empty_like",
}  # fmt: skip


class Nodes:
    """A graph that grows, and what its nodes are on the example.

    Tensors are known by the object that the network has in its hands. One that it changes in place is written nowhere:
    the object is known by another node from then on.

    Args:
        module: the network.
        place: says where it is.

    Attributes:
        graph: what was recorded.
        values: of every node, what came out on the example.
        targets: the modules and tensors that the graph refers to, by name.
        burnt: where sizes became plain numbers.
        constants: where tensors were met that no node made.
        device: of the inputs.
        active: numbers are recorded.
    """

    def __init__(self, module: nn.Module, place: Callable[[], str]) -> None:
        self.graph = fx.Graph()
        self.values: dict[fx.Node, Any] = {}
        self.targets: dict[str, Any] = {}
        self.burnt: list[str] = []
        self.constants: list[str] = []
        self.device: torch.device | None = None
        self.active = False
        self.place = place
        self._names: dict[int, str] = {}
        self._nodes: dict[int, fx.Node] = {}
        self._memory = Memory()  # keeps what it knows, so that no other tensor gets the identity of one of them
        self._stale: dict[int, str] = {}
        self._sizes: dict[fx.Node, torch.Size] = {}
        self._depends: set[fx.Node] = set()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            self._names[id(tensor)] = name
            self._memory.add(tensor, tensor.detach())

    def refuse(self, reason: str) -> ConversionError:
        """An error that says where the network is."""
        return ConversionError(f"{self.place()}: {reason}")

    # -- adding -----------------------------------------------------------------------------------------------------

    def placeholder(self, name: str, value: Any) -> Any:
        """An input, as tensors that the network has not met yet; those in containers are taken out of it."""
        node = self.graph.placeholder(name)
        value = replaced(value, lambda each: each.detach() if isinstance(each, Tensor) else each)
        first = next(tensors(value), None)
        if self.device is None and first is not None:
            self.device = first.device
        self._depends.add(node)
        return self._track(node, value)

    def output(self, value: Any) -> None:
        """What the network answers; a mapping becomes a dict."""
        self.values[self.graph.output(self.argument(value))] = value

    def add(
        self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], compute: Callable[..., Any]
    ) -> Any:
        """A node, and what comes out of it; no node stays where no tensor comes out.

        Args:
            op, target, args, kwargs: as of `torch.fx.Node`, with tensors and numbers for nodes.
            compute: answers (op, target, args, kwargs), with the tensors as they are now.
        """
        node = self.graph.create_node(op, target, self.argument(args), self.argument(kwargs))
        node.meta["place"] = self.place()
        of_shape = op != "call_module" and getattr(target, "__name__", target) in _OF_SHAPE
        if any(each in self._depends for each in node.all_input_nodes if not of_shape or each is not node.args[0]):
            self._depends.add(node)
        inputs, options = (map_arg(each, self.values.__getitem__) for each in (node.args, node.kwargs))
        value = compute(op, target, inputs, options)
        if next(tensors(value), None) is None:
            self.graph.erase_node(node)
            return value
        return self._track(node, self._new(value, {id(each) for each in tensors((inputs, options))}))

    def _new(self, value: Any, given: set[int]) -> Any:
        """Objects of their own for tensors that are known: what comes out is another node, if not another object."""

        def own(each: Any) -> Any:
            known = id(each) in given or id(each) in self._nodes or id(each) in self._names
            return each.detach() if isinstance(each, Tensor) and known else each

        return replaced(value, own)

    def _track(self, node: fx.Node, value: Any) -> Any:
        """Remember which node a tensor is, and take apart what holds several."""
        self.values[node] = value
        if isinstance(value, Tensor):
            self._nodes[id(value)] = node
            self._memory.add(value, value)
        elif isinstance(value, dict):
            return {key: self._element(node, key, each) for key, each in value.items()}
        elif isinstance(value, tuple | list):
            return rebuilt(value, [self._element(node, index, each) for index, each in enumerate(value)])
        return value

    def _element(self, node: fx.Node, key: Any, value: Any) -> Any:
        if next(tensors(value), None) is None:
            return value
        element = self.graph.call_function(operator.getitem, (node, key))
        element.meta.update(node.meta)
        if node in self._depends:
            self._depends.add(element)
        return self._track(element, value)

    # -- tensors ----------------------------------------------------------------------------------------------------

    def of(self, tensor: Tensor) -> fx.Node:
        """The node that a tensor is; one that no node made is an attribute.

        Raises:
            ConversionError: its values were changed in place through another tensor.
        """
        if id(tensor) in self._stale:
            raise self.refuse(f"reads a tensor that was changed in place through another at {self._stale[id(tensor)]}")
        return self._nodes[id(tensor)] if id(tensor) in self._nodes else self._attribute(tensor)

    def _attribute(self, tensor: Tensor) -> fx.Node:
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
        """What a tensor is now."""
        return self.values[self._nodes[id(tensor)]] if id(tensor) in self._nodes else tensor

    def depends(self, tensor: Tensor) -> bool:
        """Whether values of inputs or parameters are in it, and not sizes alone."""
        return self.of(tensor) in self._depends

    def name(self, tensor: Tensor | None) -> str | None:
        """The name of a parameter or buffer."""
        return self._names.get(id(tensor))

    def become(self, tensor: Tensor, result: Tensor, *, same_values: bool = False) -> Tensor:
        """From now on the object that was `tensor` is `result`.

        Unless it has the same values in another shape, what shares memory with it is not to be read any more.

        Raises:
            ConversionError: the object belongs to the network.
        """
        sharing = list(self._memory.sharing(self.value(tensor)))
        owned = [self._names[id(each)] for each, _ in sharing if id(each) in self._names]
        if owned or id(tensor) not in self._nodes or self._nodes[id(tensor)].op == "get_attr":
            raise self.refuse(f"changes {owned[0] if owned else 'a constant'} in place; make a new tensor")
        for each, values in () if same_values else sharing:
            if each is not tensor and each is not result and self.value(each) is values:
                self._stale.setdefault(id(each), self.place())
        self._nodes[id(tensor)] = self.of(result)
        self._memory.add(tensor, self.value(result))
        return tensor

    # -- numbers ----------------------------------------------------------------------------------------------------

    def sizes(self, tensor: Tensor) -> torch.Size:
        """The shape of a tensor, of sizes that know their nodes; of plain numbers where it is an attribute."""
        shape = self.value(tensor).shape
        node = self._nodes.get(id(tensor))
        if node is None or node.op == "get_attr":
            return shape
        if node not in self._sizes:
            whole = self._number(getattr, (node, "shape"), shape)
            elements = [self._number(operator.getitem, (whole, index), size) for index, size in enumerate(shape)]
            found = [number(size, element, self) for size, element in zip(shape, elements, strict=True)]
            self._sizes[node] = torch.Size(found)
        return self._sizes[node]

    def arithmetic(self, operation: Callable[..., Any], *numbers: Any) -> Any:
        """A function of numbers, some of which are sizes."""
        value = operation(*map(plain, numbers))
        if not self.active:
            return value
        return number(value, self._number(operation, self.argument(numbers), value), self)

    def burn(self) -> None:
        """A size becomes a number of Python."""
        if self.active:
            self.burnt.append(self.place())

    def _number(self, function: Callable[..., Any], args: tuple[Any, ...], value: Any) -> fx.Node:
        node = self.graph.call_function(function, args)
        self.values[node] = value
        return node

    # -- arguments --------------------------------------------------------------------------------------------------

    def argument(self, value: Any) -> Any:
        """A value as an argument of a node.

        Raises:
            ConversionError: it is something that a graph cannot hold.
        """
        if isinstance(value, Tensor):
            return self.of(value)
        if isinstance(value, Size | Real):
            return (value.nodes is self and value.node) or plain(value)
        if isinstance(value, tuple | list):
            return (list if type(value) is list else tuple)(map(self.argument, value))
        if isinstance(value, dict):
            return {key: self.argument(each) for key, each in value.items()}
        if isinstance(value, slice):
            return slice(*map(self.argument, (value.start, value.stop, value.step)))
        if isinstance(value, torch.device) and value == self.device:  # made wherever the network is
            return self._number(getattr, (self._input(), "device"), value)
        if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
            return value.item()
        if value is None or value is ... or isinstance(value, (*base_types, range)):
            return value
        raise self.refuse(f"expected tensors and plain values as arguments, got a {type(value).__name__}")

    def _input(self) -> fx.Node:
        return next(node for node, value in self.values.items() if isinstance(value, Tensor))
