"""Recording what a module computes, while it computes it.

The module runs as it is, on tensors that are tensors and sizes that are ints: Python decides what it decides. Every
function of torch that it calls becomes a node of a graph.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hat.tracing import functions, places
from hat.tracing.errors import ConversionError
from hat.tracing.leaves import hides_its_weight
from hat.tracing.nodes import Nodes
from hat.tracing.trees import replaced


class Recorder(TorchFunctionMode):
    """Makes the nodes of what a module calls inside `recording`.

    Args:
        module: the whole network.
        leaves: (module, name) -> whether it stays whole.
        learning: modules that are traced through are in training mode, so that functions say how they drop.

    Attributes:
        nodes: what was recorded.
        owners: the modules of the network by name.
    """

    def __init__(self, module: nn.Module, leaves: Callable[[nn.Module, str], bool], learning: bool) -> None:
        super().__init__()
        self.nodes = Nodes(module, self.place)
        self.learning = learning
        self.owners = dict(module.named_modules())
        self._names = {id(each): name for name, each in self.owners.items()}
        self._leaves = leaves
        self._inside: list[tuple[str, nn.Module]] = [("", module)]
        self._failed: tuple[Exception, tuple[str, nn.Module]] | None = None
        self._copies: dict[int, nn.Module] = {}
        self._thread = threading.get_ident()

    def place(self) -> str:
        """Where the module is, for a message."""
        return places.here(*self._inside[-1])

    def explain(self, error: Exception) -> ConversionError:
        """An error that was raised inside `recording`, with its place."""
        if isinstance(error, ConversionError):
            return error
        inside = self._failed[1] if self._failed is not None and self._failed[0] is error else self._inside[0]
        return ConversionError(f"{places.of(error, *inside)}: {type(error).__name__}: {error}")

    # -- running ----------------------------------------------------------------------------------------------------

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is called inside the `with` block, in this thread."""
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
            with torch.enable_grad(), self:  # on, so that a part without gradients shows
                yield
        finally:
            self.nodes.active = False
            nn.Module.__call__ = call  # type: ignore[method-assign]
            torch.autograd.Function.apply = apply  # type: ignore[method-assign]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let what is called inside the `with` block be, and make no graph for gradients."""
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
            self._check(module)
            if name and (self._leaves(module, name) or self._hides_its_weight(module, args, kwargs)):
                return self._call_leaf(module, name, args, kwargs)
            return module._call_impl(*args, **kwargs)
        except Exception as error:
            if self._failed is None or self._failed[0] is not error:
                self._failed = error, self._inside[-1]
            raise
        finally:
            self._inside.pop()

    def _check(self, module: nn.Module) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            raise self.nodes.refuse("a scripted module cannot be looked into; convert the module it was made of")
        if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise self.nodes.refuse("a compiled module cannot be looked into; convert first, compile afterwards")

    def _hides_its_weight(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        with self.paused():
            now = replaced((args, kwargs), lambda each: self.nodes.value(each) if isinstance(each, Tensor) else each)
            return hides_its_weight(module, *now)

    def _call_leaf(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        in_place = bool(getattr(module, "inplace", False))
        self.nodes.targets[name] = self._out_of_place(module) if in_place else module
        result = self.record("call_module", name, args, kwargs)
        return self.become(args[0], result) if in_place and args else result

    def _out_of_place(self, module: nn.Module) -> nn.Module:
        if id(module) not in self._copies:
            copy = type(module).__new__(type(module))
            copy.__dict__.update(vars(module), inplace=False)
            self._copies[id(module)] = copy
        return self._copies[id(module)]

    def insert(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module that the network does not have, under a name inside the module that is running."""
        path = self._inside[-1][0]
        free = name = f"{path}.{name}" if path else name
        count = 0
        while free in self.owners or free in self.nodes.targets:
            count += 1
            free = f"{name}_{count}"
        return self.replace(free, module, args, kwargs)

    def replace(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module in the place of the one of this name."""
        self.nodes.targets.setdefault(name, module)
        return self.record("call_module", name, args, kwargs)

    def _apply(self, cls: Any, args: tuple[Any, ...]) -> Any:
        """A function with a backward pass of its own stays whole; a checkpoint is what it checkpoints."""
        if cls is torch.utils.checkpoint.CheckpointFunction:
            return args[0](*args[2:])

        @functools.wraps(cls.forward)
        def apply(*inputs: Any) -> Any:
            return cls.apply(*inputs)

        apply.__name__ = apply.__qualname__ = cls.__name__
        return self.record("call_function", apply, args, {})

    # -- calls ------------------------------------------------------------------------------------------------------

    def record(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Add a node and compute it; where gradients are off, it has none."""
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
        for each in module.modules():
            each.training = False
        return module(*args, **kwargs)

    def become(self, tensor: Tensor, result: Tensor, *, same_values: bool = False) -> Tensor:
        """See `Nodes.become`."""
        with self.paused():
            return self.nodes.become(tensor, result, same_values=same_values)
