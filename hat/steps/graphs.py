"""A function of tensors as a graph of the GPU: recorded once, then launched as one piece.

A step of a small network is bound by the host, which launches some forty kernels of microseconds each. A graph launches
them all at once. What a recording reads must lie in tensors that keep their addresses; a Python number is fixed in it.
"""

from __future__ import annotations

import gc
import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple
from weakref import WeakMethod

import torch
from torch import Tensor

from hat.warnings import GraphWarning
from hat_kernels.capturing import holding

Function = Callable[..., Tensor]
_WAITS = "called a synchronizing CUDA operation"  # what PyTorch says of each, in its debug mode
_PATIENCE = 8  # changes without a recording in between


class CudaRecorder:
    """Runs a function on a stream of its own, and records it there.

    Recordings share the memory between their results, as they run one after the other.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def run(self, function: Function, inputs: tuple[Tensor, ...]) -> Tensor:
        """The function's result, computed on the stream that recordings need: a backward pass stays where it began."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = function(*inputs)
        current.wait_stream(self.stream)
        result.record_stream(current)
        return result

    def obstacle(self, function: Function, inputs: tuple[Tensor, ...]) -> tuple[Tensor, str]:
        """`run`, and why it cannot be recorded if it waits for the device: a recording that fails leaves debris."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = self.run(function, inputs)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        waits = [each for each in seen if _WAITS in str(each.message)]
        for other in seen:
            if other not in waits and "set_sync_debug_mode" not in str(other.message):
                warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        where = f"it waits for the device at {waits[0].filename}:{waits[0].lineno}" if waits else ""
        return result, where

    def record(self, function: Function, inputs: tuple[Tensor, ...]) -> tuple[Callable[[], None], Tensor]:
        """(replay, result): nothing runs yet; a replay reads `inputs` and writes the result."""
        gc.collect()  # a graph that dies while another is captured would end the capture
        graph = torch.cuda.CUDAGraph()
        mode = "thread_local"  # a thread that loads data may go on
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode=mode):
            result = function(*inputs)
        return graph.replay, result


class _Recording(NamedTuple):
    inputs: tuple[Tensor, ...]
    replay: Callable[[], None]
    result: Tensor
    held: list[object]


class Graphs:
    """Graphs of one function, one a key: the first calls run as they are, then it is recorded, then replayed.

    Args:
        function: of tensors on one device, to a tensor. Whatever else it reads must keep its address, or change the
            key, or be followed by `clear`. A method's owner is not kept alive: the memory of graphs goes with it.
        what: its name in warnings.
        warm: calls of a key that run before it is recorded; they compile kernels and make what a step needs, >= 1.
        most: keys that are recorded; others run as they are.
        abandon: called when a recording has failed, to put back what the function leaves behind in Python.
    """

    def __init__(
        self,
        function: Function,
        *,
        what: str,
        warm: int = 3,
        most: int = 16,
        abandon: Callable[[], None] = lambda: None,
    ) -> None:
        self.what, self.warm, self.most = what, warm, most
        self._function, self._abandon = _weakly(function), _weakly(abandon)
        self._recorder: CudaRecorder | None = None
        self._recordings: dict[Hashable, _Recording] = {}
        self._seen: Counter[Hashable] = Counter()
        self._refused: set[Hashable] = set()
        self._said: set[str] = set()
        self._idle = 0

    def clear(self) -> None:
        """Forget all recordings: what they were made of has changed."""
        self._idle = 0 if self._recordings or not self._seen else self._idle + 1
        if self._idle == _PATIENCE:
            self.say(f"what it is made of has changed {_PATIENCE} times before it could be recorded")
        self._recordings.clear()
        self._seen.clear()
        self._refused.clear()
        self._recorder = None  # with its memory

    def can_record(self, device: torch.device) -> bool:
        """Whether there are graphs on a device; if not it says so, once."""
        self._recorder = self._recorder or make_recorder(device)
        if self._recorder is None:
            self.say(f"expected a GPU, got tensors on {device}")
        return self._recorder is not None

    def __call__(self, key: Hashable, *inputs: Tensor) -> Tensor:
        """The function's result, the caller's own.

        Args:
            key: of all that a recording fixes, shapes included.
            inputs: copied to where the recording reads them.
        """
        if not self.can_record(inputs[0].device):
            return self._function()(*inputs)
        recording = self._recordings.get(key) or self._make(key, inputs)
        if isinstance(recording, Tensor):
            return recording
        for held, given in zip(recording.inputs, inputs, strict=True):
            held.copy_(given, non_blocking=True)
        recording.replay()
        return recording.result.clone()

    def _make(self, key: Hashable, inputs: tuple[Tensor, ...]) -> _Recording | Tensor:
        """A recording, or the result while there is none."""
        recorder = self._recorder
        assert recorder is not None
        self._seen[key] += 1
        if key in self._refused or self._seen[key] < self.warm:
            return recorder.run(self._function(), inputs)
        if self._seen[key] == self.warm:
            result, obstacle = recorder.obstacle(self._function(), inputs)
            if obstacle:
                self._refused.add(key)
                self.say(obstacle)
            return result
        if len(self._recordings) >= self.most:
            return self._refuse(key, f"expected at most {self.most} kinds of input, got one more", inputs)
        try:
            own = tuple(torch.empty_like(given).copy_(given) for given in inputs)
            with holding() as held:
                replay, recorded = recorder.record(self._function(), own)
        except Exception as error:
            self._abandon()()
            return self._refuse(key, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", inputs)
        self._recordings[key] = _Recording(own, replay, recorded, held)
        return self._recordings[key]

    def _refuse(self, key: Hashable, reason: str, inputs: tuple[Tensor, ...]) -> Tensor:
        assert self._recorder is not None
        self._refused.add(key)
        self.say(reason)
        return self._recorder.run(self._function(), inputs)

    def say(self, reason: str) -> None:
        """Warn that there is no graph, once a reason."""
        if reason not in self._said:
            self._said.add(reason)
            warnings.warn(f"{self.what} is no graph: {reason}; it runs as it is", GraphWarning, stacklevel=5)


def make_recorder(device: torch.device) -> Any:
    """What records on a device, or None where nothing can."""
    return CudaRecorder(device) if device.type == "cuda" else None


def _weakly(function: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    """Gives the function; of a method, as long as its owner lives."""
    if not inspect.ismethod(function):
        return lambda: function
    weak = WeakMethod(function)

    def alive() -> Callable[..., Any]:
        method = weak()
        assert method is not None
        return method

    return alive


def kind_of(tensor: Tensor) -> Hashable:
    """What a recording fixes of an input."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
