"""Recording what a module computes, while the module computes it.

The module runs unchanged on real tensors, so Python takes its decisions as always. Every function of torch that the
module calls becomes a node of a graph. Example, with an input `x` [2, 4]:

    def forward(self, x):
        h = self.linear(x).relu_()                  # linear = nn.Linear(4, 6)
        return h.view(x.shape[0], 2, 3) + 1

    node       operation                               value on the example
    x          placeholder                             tensor [2, 4]
    linear     call_module linear (x)                  tensor [2, 6]
    relu       call_method relu (linear)               tensor [2, 6]      not relu_: a graph changes nothing in place
    getattr_1  call_function getattr (x, "shape")      (2, 4)
    getitem    call_function getitem (getattr_1, 0)    2                  the batch size: another one works, too
    view       call_method view (relu, getitem, 2, 3)  tensor [2, 2, 3]
    add        call_function add (view, 1)             tensor [2, 2, 3]
    output     output (add)                            tensor [2, 2, 3]

`linear` is a leaf, so it stays one node, see `hat.tracing.leaves`. A module that is not a leaf leaves no node of its
own, only the nodes of the calls inside of it.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hat.text import dotted
from hat.tracing import functions, places
from hat.tracing.errors import ConversionError, told
from hat.tracing.leaves import hides_its_weight, sealed
from hat.tracing.nodes import Nodes
from hat.tracing.substitutes import Applied
from hat.tracing.trees import replaced


class Recorder(TorchFunctionMode):
    """Records the calls that a network makes inside `recording`.

    Args:
        module: the network.
        leaves: (module, name) -> whether the module becomes one node.
        learning: modules that are not leaves run in training mode, so that their calls of dropout show.

    Attributes:
        nodes: the recording.
        learning: as the argument.
        owners: the modules of the network by name.
    """

    def __init__(self, module: nn.Module, leaves: Callable[[nn.Module, str], bool], learning: bool) -> None:
        super().__init__()
        self.nodes = Nodes(module, self.place)
        self.learning = learning
        self.owners = dict(module.named_modules())
        self._names = {id(part): name for name, part in self.owners.items()}
        self._leaves = leaves
        self._inside: list[tuple[str, nn.Module]] = [("", module)]
        self._failed: tuple[Exception, tuple[str, nn.Module]] | None = None
        self._copies: dict[int, nn.Module] = {}
        self._thread = threading.get_ident()

    def place(self) -> str:
        """The place in the network that is running, for a message."""
        return places.running_line(*self._inside[-1])

    def explain(self, error: Exception) -> ConversionError:
        """An error that was raised inside `recording`, as a `ConversionError` that names the place."""
        if isinstance(error, ConversionError):
            return error
        place = self._failed[1] if self._failed is not None and self._failed[0] is error else self._inside[0]
        return ConversionError(f"{places.line_of(error, *place)}: {told(error)}")

    # -- running ----------------------------------------------------------------------------------------------------

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the calls of this thread inside the `with` block."""
        call, apply = nn.Module.__call__, vars(torch.autograd.Function)["apply"]

        def call_module(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            listens = self.nodes.active and threading.get_ident() == self._thread
            return self._call_module(module, args, kwargs) if listens else call(module, *args, **kwargs)

        def call_apply(cls: Any, *args: Any) -> Any:
            listens = self.nodes.active and threading.get_ident() == self._thread
            return self._apply(cls, args) if listens else apply.__func__(cls, *args)

        nn.Module.__call__ = call_module  # type: ignore[method-assign]
        torch.autograd.Function.apply = classmethod(call_apply)  # type: ignore[method-assign, assignment]
        self.nodes.active = True
        try:
            with torch.enable_grad(), self:  # gradients on, so that `torch.no_grad` inside the network shows
                yield
        finally:
            self.nodes.active = False
            nn.Module.__call__ = call  # type: ignore[method-assign]
            torch.autograd.Function.apply = apply  # type: ignore[method-assign]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Record nothing inside the `with` block, and compute without gradients."""
        before, self.nodes.active = self.nodes.active, False
        try:
            with torch.no_grad():
                yield
        finally:
            self.nodes.active = before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return functions.call(self, func, args, kwargs) if self.nodes.active else func(*args, **kwargs)

    # -- modules ----------------------------------------------------------------------------------------------------

    def _call_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = self._names.get(id(module))
        self._inside.append((self._inside[-1][0] if name is None else name, module))
        try:
            if (reason := sealed(module)) is not None:
                raise self.nodes.refuse(reason)
            if name and (self._leaves(module, name) or self._hides_its_weight(module, args, kwargs)):
                return self._call_leaf(module, name, args, kwargs)
            return module._call_impl(*args, **kwargs)
        except Exception as error:
            if self._failed is None or self._failed[0] is not error:
                self._failed = error, self._inside[-1]
            raise
        finally:
            self._inside.pop()

    def _hides_its_weight(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        with self.paused():
            inputs = replaced((args, kwargs), lambda arg: self.nodes.value(arg) if isinstance(arg, Tensor) else arg)
            return hides_its_weight(module, *inputs)

    def _call_leaf(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        args, kwargs = bound.args, bound.kwargs  # another layer may call the same argument by another name
        in_place = bool(getattr(module, "inplace", False))
        self.nodes.targets[name] = self._out_of_place(module) if in_place else module
        result = self.record("call_module", name, args, kwargs)
        return self.become(args[0], result) if in_place and args else result

    def _out_of_place(self, module: nn.Module) -> nn.Module:
        """A copy of an in-place layer that writes to a new tensor; it shares the parameters."""
        if id(module) not in self._copies:
            copy = type(module).__new__(type(module))
            copy.__dict__.update(vars(module), inplace=False)
            self._copies[id(module)] = copy
        return self._copies[id(module)]

    def insert(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of a module that is not part of the network, under a free name inside the running module."""
        path = self._inside[-1][0]
        full_name = name = dotted(path, name)
        count = 0
        while full_name in self.owners or full_name in self.nodes.targets:
            count += 1
            full_name = f"{name}_{count}"
        return self.replace(full_name, module, args, kwargs)

    def replace(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record a call of `module` under `name`, which may be the name of a module of the network."""
        self.nodes.targets.setdefault(name, module)
        return self.record("call_module", name, args, kwargs)

    def _apply(self, cls: Any, args: tuple[Any, ...]) -> Any:
        """Record a `torch.autograd.Function` as one node, and a checkpoint as the calls inside of it."""
        if cls is torch.utils.checkpoint.CheckpointFunction:
            return args[0](*args[2:])

        return self.record("call_function", Applied(cls), args, {})

    # -- calls ------------------------------------------------------------------------------------------------------

    def record(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Add a node and return its value. If gradients are off, `detach` nodes are added behind the node."""
        with_gradients = torch.is_grad_enabled()
        with self.paused():
            value = self.nodes.add(op, target, args, kwargs, self._compute)
            return value if with_gradients else replaced(value, self._detached)

    def _detached(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not self.nodes.depends(value):
            return value
        return self.nodes.add("call_method", "detach", (value,), {}, self._compute)

    def _compute(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if op == "call_function":
            return target(*args, **kwargs)
        module = self.nodes.targets[target]
        for part in module.modules():
            part.training = False
        return module(*args, **kwargs)

    def become(self, tensor: Tensor, result: Tensor, *, same_values: bool = False) -> Tensor:
        """See `Nodes.become`."""
        with self.paused():
            return self.nodes.become(tensor, result, same_values=same_values)
