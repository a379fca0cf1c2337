"""What a network does while it runs: the functions that it calls, the numbers that it draws, and what it writes to.

Example, a part `2 (Noise)` of a network with `return x + torch.randn_like(x)`:

    calls        {"2": [("randn_like", ...), ("add", ...)]}     functions, by the module that calls them
    draws        [Draw("2", "2 (Noise, nets.py:5)", "randn_like", "aten.randn_like.default")]

Every operation of torch that draws numbers has a tag, so a draw shows inside of other functions, too.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from hat.text import dotted
from hat.tracing.checks import same
from hat.tracing.dropouts_and_norms import FUNCTIONS
from hat.tracing.generators import generators
from hat.tracing.places import OWN, described
from hat.tracing.trees import flat, tensors
from hat.tracing.untouched import holders

_UNIMPORTANT = {"__hash__", "__repr__", "__format__", "__reduce_ex__", "__dir__", "_set_grad_enabled", "_assert"}


@dataclass(frozen=True)
class Draw:
    """A draw of random numbers.

    Attributes:
        path: the name of the module that draws.
        place: the module and the line, as text.
        function: the function that the module called.
        operation: the operation of torch that drew.
    """

    path: str
    place: str
    function: str
    operation: str


@dataclass
class Run:
    """What was noted of one run of a network.

    Attributes:
        answer: the elements of the answer; None if the network raised an error.
        error: the error.
        called: the names of the modules that ran.
        calls: by the name of a module, (key, place) of the functions of torch that it called itself, in order. A key
            can be compared. Dropouts, attention and batch norms are left out.
        draws: the draws of torch, in order.
        moved: by (the name of a module, a generator of Python or NumPy that it drew from), the module as text.
        written: by the name of a tensor of the network that was written to, the place; "" if nobody knows.
        checkpoints: by the name of a module that called a checkpoint to save memory, the place.
    """

    answer: list[Any] | None = None
    error: Exception | None = None
    called: set[str] = field(default_factory=lambda: {""})
    calls: dict[str, list[Any]] = field(default_factory=dict)
    draws: list[Draw] = field(default_factory=list)
    moved: dict[tuple[str, str], str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    checkpoints: dict[str, str] = field(default_factory=dict)


def watched(network: nn.Module, module: nn.Module, inputs: tuple[Any, ...], *, training: bool) -> Run:
    """One run from random seed 0. It may change modes and attributes of the network, but no values of its tensors.

    Args:
        network: the network, whose tensors are named.
        module: what runs: the network, or its graph. The modules inside are named.
        inputs: the arguments of a call.
        training: whether the run is in training mode.
    """
    watch, inputs = _Watch(network, module), tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), inputs)
    torch.manual_seed(0)
    try:
        module.train(training)
        with warnings.catch_warnings(), watch.watching():
            warnings.simplefilter("ignore")
            answer = module.forward(*inputs)
    except Exception as error:
        watch.run.error = error
    else:
        watch.run.answer = [value.detach() if isinstance(value, Tensor) else value for value in flat(answer, keys=True)]
    return watch.run


def named_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a network has: parameters, buffers and other attributes, by name."""
    for path, holder, fields in holders(network):
        for name, value in fields.items():
            for key, element in value.items() if isinstance(value, dict) else [("", value)]:
                inner = (str(key),) if name in ("_parameters", "_buffers") else (name, str(key))
                yield from ((dotted(path, holder, *inner), tensor) for tensor in tensors(element))


class _Watch:
    """Notes what a network does.

    Args:
        network, module: as of `watched`.

    Attributes:
        run: what is noted.
        function: the function of torch that the network calls now.
    """

    def __init__(self, network: nn.Module, module: nn.Module) -> None:
        self.run, self.function = Run(), ""
        self._thread = threading.get_ident()
        self._names = {id(part): name for name, part in module.named_modules()}
        self._inside: list[tuple[str, nn.Module]] = [("", module)]
        self._tensors = [(name, tensor) for name, tensor in named_tensors(network) if tensor.layout is torch.strided]
        self._by_memory: dict[int, list[tuple[str, Tensor]]] = {}
        for name, tensor in self._tensors:
            self._by_memory.setdefault(tensor.untyped_storage().data_ptr(), []).append((name, tensor))
        # An operation of a batch norm does not say that it writes to running statistics.
        self._saved = {name: (buffer, buffer.detach().clone()) for name, buffer in network.named_buffers()}
        self._generators = list(generators(network))
        self._positions = [generator.position() for generator in self._generators]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note what happens inside the `with` block. After it, the tensors of the network have their values again."""
        memory = [(name, tensor, tensor.data) for name, tensor in self._tensors]
        handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            with torch.enable_grad(), _Functions(self), _Operations(self):
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._look_at_generators()
            self._restore(memory)

    def _restore(self, memory: list[tuple[str, Tensor, Tensor]]) -> None:
        for name, tensor, data in memory:
            if tensor.data_ptr() != data.data_ptr():
                self.run.written.setdefault(name, "")
                tensor.data = data
        for name, (tensor, values) in self._saved.items():
            if not same([tensor], [values]):
                self.run.written.setdefault(name, "")
                tensor.data.copy_(values)

    # -- modules ----------------------------------------------------------------------------------------------------

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        self._look_at_generators()
        self._inside.append((self._names.get(id(module), self._inside[-1][0]), module))
        self.run.called.add(self._inside[-1][0])

    def _leave(self, module: nn.Module, args: Any, answer: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        self._look_at_generators()
        self._inside.pop()

    def _look_at_generators(self) -> None:
        for index, generator in enumerate(self._generators):
            if (position := generator.position()) != self._positions[index]:
                self._positions[index] = position
                self.run.moved.setdefault((self._inside[-1][0], generator.name), described(*self._inside[-1]))

    # -- functions and operations -----------------------------------------------------------------------------------

    def call(self, function: Any, args: Any, kwargs: Any) -> None:
        """Note a call of a function of torch."""
        path = self._inside[-1][0]
        checkpointed = self._in_checkpoint()
        if function not in FUNCTIONS and function.__name__ not in _UNIMPORTANT:
            plain = tuple(_plain(value) for value in flat((args, kwargs), keys=True))
            key = function.__name__, plain, checkpointed or torch.is_grad_enabled()
            self.run.calls.setdefault(path, []).append((key, self._place()))

    def operation(self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call an operation of torch and note what it does."""
        if operation._schema.is_mutable:
            for argument, value in _given(operation._schema, args, kwargs):
                for tensor in (
                    tensors(value) if argument.alias_info is not None and argument.alias_info.is_write else ()
                ):
                    self._write(tensor)
        if torch.Tag.nondeterministic_seeded not in operation.tags:
            return operation(*args, **kwargs)
        before = _seeds(kwargs)
        answer = operation(*args, **kwargs)
        if not same(before, _seeds(kwargs)):  # attention draws nothing if its dropout is 0
            draw = self._inside[-1][0], self._place(), self.function or str(operation), str(operation)
            self.run.draws.append(Draw(*draw))
        return answer

    def _write(self, tensor: Tensor) -> None:
        """Note the tensors of the network that share memory with a tensor that is written to, and keep their values."""
        if tensor.layout is not torch.strided:
            return
        for name, owned in self._by_memory.get(tensor.untyped_storage().data_ptr(), ()):
            if _overlap(tensor, owned):
                self._saved.setdefault(name, (owned, owned.detach().clone()))
                self.run.written.setdefault(name, self._place())

    def _place(self) -> str:
        """The module that runs and its line, as text; without a line if only code of torch runs."""
        frame = sys._getframe()
        while frame.f_back is not None and frame.f_code.co_filename.startswith(OWN):
            if frame.f_code is watched.__code__:
                return described(*self._inside[-1])
            frame = frame.f_back
        return described(*self._inside[-1], frame.f_code.co_filename, frame.f_lineno)

    def _in_checkpoint(self) -> bool:
        """Whether a checkpoint calls what runs now. The module that called the checkpoint is noted."""
        frame, is_inside, line = sys._getframe(2), False, ("", 0)
        while frame.f_back is not None and frame.f_code is not watched.__code__:
            if frame.f_code.co_filename == checkpoint.__file__:
                is_inside, line = True, ("", 0)
            elif is_inside:
                if not line[0] and not frame.f_code.co_filename.startswith(OWN):
                    line = frame.f_code.co_filename, frame.f_lineno
                caller = next(iter(frame.f_locals.values()), None)  # `self` of a method
                if isinstance(caller, nn.Module) and (path := self._names.get(id(caller))) is not None:
                    self.run.checkpoints.setdefault(path, described(path, caller, *line))
                    return True
            frame = frame.f_back
        return is_inside


class _Functions(TorchFunctionMode):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.watch.call(func, args, kwargs or {})
        before, self.watch.function = self.watch.function, func.__name__
        try:
            return func(*args, **kwargs or {})
        finally:
            self.watch.function = before


class _Operations(TorchDispatchMode):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch


def _dispatch(self: _Operations, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    return self.watch.operation(func, args, kwargs or {})


# Inside of the class, torch would wrap it so that its first call loads the compiler: seconds, and 160 MiB.
_Operations.__torch_dispatch__ = _dispatch  # type: ignore[method-assign, assignment]


def _seeds(kwargs: dict[str, Any]) -> list[Tensor]:
    """The states of the generators of torch that an operation may draw from."""
    given = kwargs.get("generator")
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *on_devices, *([] if given is None else [given.get_state()])]


def _given(schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The arguments that an operation gets, each with its declaration."""
    for index, argument in enumerate(schema.arguments):
        yield argument, args[index] if index < len(args) else kwargs.get(argument.name)


def _plain(value: Any) -> Any:
    """An argument in a form that can be compared. Whole numbers are left out: a size may depend on an earlier draw."""
    return value if value is None or isinstance(value, bool | float | str) else type(value).__name__


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one memory may have elements in common."""
    return all(a.data_ptr() < b.data_ptr() + _length(b) for a, b in ((one, other), (other, one)))


def _length(tensor: Tensor) -> int:
    """How many bytes lie from the first to behind the last element."""
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    return (1 + sum((size - 1) * stride for size, stride in strides)) * tensor.element_size() if tensor.numel() else 0
