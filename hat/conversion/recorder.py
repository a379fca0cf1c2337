"""Recording what a module computes, while it computes it.

The module runs as it is, on tensors that are tensors and sizes that are ints: Python decides what it decides. Every
function of torch that it calls becomes a node of a graph, known by the tensor that came out. Nothing is written in
place meanwhile: an object that the module changes is from then on known by the node of what it changed to.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import base_types, map_arg
from torch.overrides import TorchFunctionMode

from hat.conversion import functions
from hat.conversion.aliases import overlap
from hat.conversion.errors import ConversionError
from hat.conversion.leaves import hides_its_weight
from hat.conversion.sizes import Real, Size, number, plain

_OWN = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep)


class Recorder(TorchFunctionMode):
    """A graph that grows while a module runs inside `recording`.

    Args:
        module: the whole network.
        leaves: (module, name) -> whether it stays whole.
        learning: modules that are traced through are in training mode, so that functions say how they drop.

    Attributes:
        graph: what was recorded.
        values: of every node, what came out on the example.
        targets: the modules and tensors that the graph refers to, by name.
        burnt: where sizes became plain numbers.
    """

    def __init__(self, module: nn.Module, leaves: Callable[[nn.Module, str], bool], learning: bool) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.values: dict[fx.Node, Any] = {}
        self.targets: dict[str, Any] = {}
        self.burnt: list[str] = []
        self.learning = learning
        self.device: torch.device | None = None
        self.owners = dict(module.named_modules())
        self.names = {id(t): name for name, t in [*module.named_parameters(), *module.named_buffers()]}
        self._tensors = [*module.parameters(), *module.buffers()]
        self._modules = {id(each): name for name, each in module.named_modules()}
        self._leaves = leaves
        self._nodes: dict[int, fx.Node] = {}  # by the tensors that the module has in its hands
        self._held: list[Tensor] = []  # so that no other tensor gets the address of one of them
        self._stale: dict[int, str] = {}
        self._sizes: dict[fx.Node, torch.Size] = {}
        self._depends: set[fx.Node] = set()  # on values of inputs or parameters
        self._inside: list[tuple[str, nn.Module]] = [("", module)]
        self._fresh: dict[int, nn.Module] = {}
        self._failed: tuple[Exception, tuple[str, nn.Module]] | None = None
        self._paused = True
        self._thread = threading.get_ident()

    # -- running ----------------------------------------------------------------------------------------------------

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is called inside the `with` block, in this thread."""
        call, apply = nn.Module.__call__, vars(torch.autograd.Function)["apply"]

        def module_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self._paused or threading.get_ident() != self._thread:
                return call(module, *args, **kwargs)
            return self._call_module(module, args, kwargs)

        def function_apply(cls: Any, *args: Any) -> Any:
            original = functools.partial(apply.__func__, cls)
            if self._paused or threading.get_ident() != self._thread:
                return original(*args)
            return self._apply(cls, original, args)

        nn.Module.__call__ = module_call  # type: ignore[method-assign]
        torch.autograd.Function.apply = classmethod(function_apply)  # type: ignore[method-assign, assignment]
        self._paused = False
        try:
            with torch.enable_grad(), self:  # on, so that a part without gradients shows
                yield
        finally:
            self._paused = True
            nn.Module.__call__ = call  # type: ignore[method-assign]
            torch.autograd.Function.apply = apply  # type: ignore[method-assign]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let what is called inside the `with` block be, and make no graph for gradients."""
        before, self._paused = self._paused, True
        try:
            with torch.no_grad():
                yield
        finally:
            self._paused = before

    def place(self) -> str:
        """Where the module is, for a message."""
        frame = sys._getframe()
        while frame.f_back is not None and _is_own(frame.f_code.co_filename):
            frame = frame.f_back
        return _place(*self._inside[-1], frame.f_code.co_filename, frame.f_lineno)

    def place_of(self, error: Exception) -> str:
        """Where an error comes from."""
        name, module = self._failed[1] if self._failed is not None and self._failed[0] is error else self._inside[0]
        lines = list(traceback.walk_tb(error.__traceback__))
        frame, line = next((each for each in lines[::-1] if not _is_own(each[0].f_code.co_filename)), lines[-1])
        return _place(name, module, frame.f_code.co_filename, line)

    def refuse(self, reason: str) -> ConversionError:
        return ConversionError(f"{self.place()}: {reason}")

    def note_burnt(self, node: fx.Node) -> None:
        if not self._paused:
            self.burnt.append(self.place())

    # -- from the beginning to the end ------------------------------------------------------------------------------

    def placeholder(self, name: str, value: Any) -> Any:
        """An input; tensors in containers are taken out of it."""
        node = self.graph.placeholder(name)
        with self.paused():
            value = _aliases(value, lambda each: True)
        found = next(iter(_tensors(value)), None)
        if self.device is None and found is not None:
            self.device = found.device
        self._depends.add(node)
        return self._track(node, value)

    def output(self, value: Any) -> None:
        """What the module answers; a mapping becomes a dict."""
        self.values[self.graph.output(self._argument(value))] = value

    # -- calls ------------------------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._paused:
            return func(*args, **(kwargs or {}))
        return functions.call(self, func, args, kwargs or {})

    def _call_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = self._modules.get(id(module))
        self._inside.append((self._inside[-1][0] if name is None else name, module))
        try:
            self._check_module(module)
            if name and (self._leaves(module, name) or self._hides(module, args, kwargs)):
                return self._call_leaf(module, name, args, kwargs)
            return module._call_impl(*args, **kwargs)
        except Exception as error:
            if self._failed is None or self._failed[0] is not error:
                self._failed = error, self._inside[-1]
            raise
        finally:
            self._inside.pop()

    def _check_module(self, module: nn.Module) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            raise self.refuse("a scripted module cannot be looked into; convert the module it was made of")
        if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise self.refuse("a compiled module cannot be looked into; convert first, compile afterwards")

    def _hides(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        args, kwargs = (map_arg(self._argument(each), self.values.get) for each in (args, kwargs))
        with self.paused():
            return hides_its_weight(module, args, kwargs)

    def _call_leaf(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        in_place = bool(getattr(module, "inplace", False))
        self.targets[name] = self._out_of_place(module) if in_place else module
        result = self.record("call_module", name, args, kwargs)
        return self.become(args[0], result) if in_place and args else result

    def _out_of_place(self, module: nn.Module) -> nn.Module:
        if id(module) not in self._fresh:
            fresh = type(module).__new__(type(module))
            fresh.__dict__.update(vars(module), inplace=False)
            self._fresh[id(module)] = fresh
        return self._fresh[id(module)]

    def insert(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module that the network does not have, under a name inside the module that is running."""
        path = self._inside[-1][0]
        free = name = f"{path}.{name}" if path else name
        number = 0
        while free in self.owners or free in self.targets:
            number += 1
            free = f"{name}_{number}"
        self.targets[free] = module.eval()
        return self.record("call_module", free, args, kwargs)

    def stand_for(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """Call a module in the place of the one of this name, of which it has the parameters."""
        self.targets.setdefault(name, module)
        return self.record("call_module", name, args, {})

    def _apply(self, cls: Any, original: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if cls is torch.utils.checkpoint.CheckpointFunction:
            return args[0](*args[2:])

        def apply(*inputs: Any) -> Any:
            return cls.apply(*inputs)

        apply.__name__ = apply.__qualname__ = cls.__name__  # a function with a backward pass of its own stays whole
        return self.record("call_function", apply, args, {})

    # -- nodes ------------------------------------------------------------------------------------------------------

    def record(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Add a node and compute it; no node stays where no tensor comes out."""
        value = self._record(op, target, args, kwargs)
        return value if torch.is_grad_enabled() else self._detached(value)

    def _detached(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._record("call_method", "detach", (value,), {}) if self.depends(value) else value
        return tuple(map(self._detached, value)) if isinstance(value, tuple | list) else value

    def _record(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        node = self.graph.create_node(op, target, self._argument(args), self._argument(kwargs))
        node.meta["place"] = self.place()
        if any(each in self._depends for each in node.all_input_nodes):
            self._depends.add(node)
        with self.paused():
            value = self._compute(node)
        if not any(True for _ in _tensors(value)):
            self.graph.erase_node(node)
            return value
        return self._track(node, value)

    def _compute(self, node: fx.Node) -> Any:
        args, kwargs = map_arg(node.args, self.values.__getitem__), map_arg(node.kwargs, self.values.__getitem__)
        if node.op == "call_module":
            value = self.targets[node.target](*args, **kwargs)  # type: ignore[index]
        elif node.op == "call_method":
            value = getattr(args[0], node.target)(*args[1:], **kwargs)  # type: ignore[arg-type]
        else:
            value = node.target(*args, **kwargs)  # type: ignore[operator]
        given = {id(each) for each in _tensors((args, kwargs))}
        return _aliases(value, lambda each: id(each) in given or id(each) in self._nodes or id(each) in self.names)

    def _track(self, node: fx.Node, value: Any) -> Any:
        """Remember which node a tensor is, and take apart what holds several."""
        self.values[node] = value
        if isinstance(value, Tensor):
            self._nodes[id(value)] = node
            self._held.append(value)
        elif isinstance(value, dict):
            return {key: self._element(node, key, each) for key, each in value.items()}
        elif isinstance(value, tuple | list):
            found = [self._element(node, index, each) for index, each in enumerate(value)]
            return type(value)(*found) if hasattr(value, "_fields") else type(value)(found)
        return value

    def _element(self, node: fx.Node, key: Any, value: Any) -> Any:
        if not any(True for _ in _tensors(value)):
            return value
        element = self.graph.call_function(functions.ELEMENT, (node, key))
        element.meta["place"] = node.meta.get("place")
        if node in self._depends:
            self._depends.add(element)
        return self._track(element, value)

    def node(self, tensor: Tensor) -> fx.Node:
        """The node that a tensor is; one that was there before is an attribute.

        Raises:
            ConversionError: its values were changed in place through another tensor.
        """
        if id(tensor) in self._stale:
            raise self.refuse(f"reads a tensor that was changed in place through another at {self._stale[id(tensor)]}")
        if id(tensor) not in self._nodes:
            name = self.names.get(id(tensor)) or f"_constant{len(self._nodes)}"
            self.targets[name] = tensor
            node = self.graph.get_attr(name)
            node.meta["place"] = self.place()
            if isinstance(tensor, nn.Parameter):
                self._depends.add(node)
            self._nodes[id(tensor)], self.values[node] = node, tensor
            self._held.append(tensor)
        return self._nodes[id(tensor)]

    def value(self, tensor: Tensor) -> Tensor:
        """What a tensor is now."""
        return self.values[self._nodes[id(tensor)]] if id(tensor) in self._nodes else tensor

    def depends(self, tensor: Tensor) -> bool:
        """Whether the values of inputs or parameters are in it."""
        return self.node(tensor) in self._depends

    def name_of(self, tensor: Tensor | None) -> str | None:
        """The name of a parameter or buffer."""
        return self.names.get(id(tensor))

    # -- numbers ----------------------------------------------------------------------------------------------------

    def sizes(self, tensor: Tensor) -> torch.Size:
        """The shape of a tensor, of sizes that know it; of plain numbers where it is an attribute."""
        shape = self.value(tensor).shape
        node = self._nodes.get(id(tensor))
        if node is None or node.op == "get_attr":
            return shape
        if node not in self._sizes:
            whole = self.graph.call_function(getattr, (node, "shape"))
            self.values[whole] = shape
            sizes = []
            for index, size in enumerate(shape):
                element = self.graph.call_function(functions.ELEMENT, (whole, index))
                self.values[element] = size
                sizes.append(number(size, element, self))
            self._sizes[node] = torch.Size(sizes)
        return self._sizes[node]

    def arithmetic(self, operation: Callable[..., Any], *numbers: Any) -> Any:
        """A function of numbers, some of which are sizes."""
        value = operation(*map(plain, numbers))
        if self._paused:
            return value
        node = self.graph.call_function(operation, tuple(map(self._argument, numbers)))
        self.values[node] = value
        return number(value, node, self)

    # -- in place ---------------------------------------------------------------------------------------------------

    def become(self, tensor: Tensor, result: Tensor, same_values: bool = False) -> Tensor:
        """From now on the object that was `tensor` is `result`.

        Unless it has the same values in another shape, what shares memory with it is not to be read any more.

        Raises:
            ConversionError: the object belongs to the network.
        """
        if id(tensor) not in self._nodes or self._nodes[id(tensor)].op == "get_attr":
            raise self.refuse(f"changes {self.names.get(id(tensor), 'a constant')} in place; make a new tensor")
        with self.paused():
            before = self.value(tensor)
            for attribute in () if same_values else self._tensors:
                if overlap(attribute, before):
                    raise self.refuse(f"changes {self.names[id(attribute)]} in place; make a new tensor")
            for held in () if same_values else self._held:
                if held is not tensor and held is not result and overlap(self.value(held), before):
                    self._stale.setdefault(id(held), self.place())
        self._nodes[id(tensor)] = self.node(result)
        return tensor

    # -- arguments --------------------------------------------------------------------------------------------------

    def _argument(self, value: Any) -> Any:
        """A value as an argument of a node.

        Raises:
            ConversionError: it is something that a graph cannot hold.
        """
        if isinstance(value, Tensor):
            return self.node(value)
        if isinstance(value, Size | Real):
            return value.node
        if isinstance(value, tuple | list):
            return (list if type(value) is list else tuple)(map(self._argument, value))
        if isinstance(value, dict):
            return {key: self._argument(each) for key, each in value.items()}
        if isinstance(value, slice):
            return slice(*map(self._argument, (value.start, value.stop, value.step)))
        if isinstance(value, torch.device) and value == self.device:
            return self._device_node()
        if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
            return value.item()
        if value is None or value is ... or isinstance(value, (*base_types, range)):
            return value
        raise self.refuse(f"expected tensors and plain values as arguments, got a {type(value).__name__}")

    def _device_node(self) -> fx.Node:
        """The device of an input: what is made there is made wherever the network is."""
        source = next(node for node, value in self.values.items() if isinstance(value, Tensor))
        node = self.graph.call_function(getattr, (source, "device"))
        self.values[node] = self.device
        return node


def _is_own(file: str) -> bool:
    return file.startswith(_OWN) or file.startswith("<")


def _place(name: str, module: nn.Module, file: str, line: int) -> str:
    return f"{name or 'the network'} ({type(module).__name__}, {os.path.basename(file)}:{line})"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)


def _aliases(value: Any, known: Callable[[Tensor], bool]) -> Any:
    """The same values, and new objects for those that are known."""
    if isinstance(value, Tensor):
        return value.detach() if known(value) else value
    if isinstance(value, dict):
        return {key: _aliases(each, known) for key, each in value.items()}
    if isinstance(value, tuple | list):
        found = [_aliases(each, known) for each in value]
        return type(value)(*found) if hasattr(value, "_fields") else type(value)(found)
    return value
