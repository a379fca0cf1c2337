"""Run a function of tensors as a graph of the GPU: record the graph once, then launch it as one piece.

A training step of a small network is bound by the host, which launches about forty kernels that run for microseconds
each. A graph launches all these kernels at once. A recorded graph reads tensors at fixed addresses, so these tensors
must stay where they are. The graph also keeps every Python number as it was when it was recorded.
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
_WAITS = "called a synchronizing CUDA operation"  # PyTorch's warning for every such operation, in its debug mode
_PATIENCE = 8  # after this many changes in a row without a recording, `Graphs` warns


class CudaRecorder:
    """Runs a function on a separate stream, and records the function there.

    All recordings share one memory for temporary tensors, because they never run at the same time.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def run(self, function: Function, inputs: tuple[Tensor, ...]) -> Tensor:
        """Run the function on the stream of the recordings, because a backward pass stays on its first stream."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = function(*inputs)
        current.wait_stream(self.stream)
        result.record_stream(current)
        return result

    def obstacle(self, function: Function, inputs: tuple[Tensor, ...]) -> tuple[Tensor, str]:
        """Run the function, and check whether it waits for the device: such a function cannot be recorded.

        Checking first is better than to try a recording, because a recording that fails cannot be cleaned up wholly.

        Returns:
            (the result, the place where the function waits, or "" if it does not wait).
        """
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = self.run(function, inputs)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        waits = [warning for warning in caught if _WAITS in str(warning.message)]
        for other in caught:
            if other not in waits and "set_sync_debug_mode" not in str(other.message):
                warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        where = f"it waits for the device at {waits[0].filename}:{waits[0].lineno}" if waits else ""
        return result, where

    def record(self, function: Function, inputs: tuple[Tensor, ...]) -> tuple[Callable[[], None], Tensor]:
        """Record the function. Nothing runs yet.

        Returns:
            (replay, result): a call of `replay` reads `inputs` and writes `result`.
        """
        gc.collect()  # now, because collecting an old graph during a capture would end the capture
        graph = torch.cuda.CUDAGraph()
        mode = "thread_local"  # so that other threads, which load data, may use the device during the capture
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode=mode):
            result = function(*inputs)
        return graph.replay, result


class _GraphRecording(NamedTuple):
    """A recorded graph.

    Attributes:
        inputs: the tensors that the graph reads.
        replay: runs the graph.
        result: the tensor that the graph writes.
        held: objects that must live as long as the graph.
    """

    inputs: tuple[Tensor, ...]
    replay: Callable[[], None]
    result: Tensor
    held: list[object]


class Graphs:
    """The graphs of one function, one graph a key.

    The first calls of a key run the function without a graph. The next call records a graph, and all later calls replay
    the graph.

    Args:
        function: takes tensors on one device and returns a tensor. Any other tensor that the function reads must keep
            its address; if it does not, the key must change or `clear` must be called. The owner of a method is not
            kept alive, so the memory of the graphs is freed with the owner.
        name: of the function, in warnings.
        warm: how many calls of a key run before it is recorded, >= 1. They compile kernels and make the states of
            optimizers.
        most: how many keys are recorded. Other keys run without a graph.
        abandon: is called after a recording has failed, to clean up what the function has left in Python objects.
    """

    def __init__(
        self,
        function: Function,
        *,
        name: str,
        warm: int = 3,
        most: int = 16,
        abandon: Callable[[], None] = lambda: None,
    ) -> None:
        self.name, self.warm, self.most = name, warm, most
        self._function, self._abandon = _weakly(function), _weakly(abandon)
        self._recorder: CudaRecorder | None = None
        self._recordings: dict[Hashable, _GraphRecording] = {}
        self._seen: Counter[Hashable] = Counter()
        self._refused: set[Hashable] = set()
        self._said: set[str] = set()
        self._idle = 0

    def clear(self) -> None:
        """Drop all recordings, because something that they read has changed."""
        self._idle = 0 if self._recordings or not self._seen else self._idle + 1
        if self._idle == _PATIENCE:
            self.say(f"a tensor or an option has changed {_PATIENCE} times before it could be recorded")
        self._recordings.clear()
        self._seen.clear()
        self._refused.clear()
        self._recorder = None  # frees the memory that the recordings shared

    def can_record(self, device: torch.device) -> bool:
        """Whether the device can run graphs. If it cannot, this warns once."""
        self._recorder = self._recorder or make_recorder(device)
        if self._recorder is None:
            self.say(f"expected a GPU, got tensors on {device}")
        return self._recorder is not None

    def __call__(self, key: Hashable, *inputs: Tensor) -> Tensor:
        """The result of the function, in a new tensor.

        Args:
            key: must differ for inputs that need another recording, such as inputs of other shapes.
            inputs: the tensors; a replay copies them to the tensors that the recording reads.
        """
        if not self.can_record(inputs[0].device):
            return self._function()(*inputs)
        recording = self._recordings.get(key) or self._make(key, inputs)
        if isinstance(recording, Tensor):
            return recording
        for recorded, given in zip(recording.inputs, inputs, strict=True):
            recorded.copy_(given, non_blocking=True)
        recording.replay()
        return recording.result.clone()

    def _make(self, key: Hashable, inputs: tuple[Tensor, ...]) -> _GraphRecording | Tensor:
        """A new recording; or the result, if this call must run without a graph."""
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
            copies = tuple(torch.empty_like(given).copy_(given) for given in inputs)
            with holding() as held:
                replay, recorded = recorder.record(self._function(), copies)
        except Exception as error:
            self._abandon()()
            return self._refuse(key, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", inputs)
        self._recordings[key] = _GraphRecording(copies, replay, recorded, held)
        return self._recordings[key]

    def _refuse(self, key: Hashable, reason: str, inputs: tuple[Tensor, ...]) -> Tensor:
        assert self._recorder is not None
        self._refused.add(key)
        self.say(reason)
        return self._recorder.run(self._function(), inputs)

    def say(self, reason: str) -> None:
        """Warn that there is no graph, once for every reason."""
        if reason not in self._said:
            self._said.add(reason)
            warnings.warn(f"{self.name} is no graph: {reason}; it runs without", GraphWarning, stacklevel=5)


def make_recorder(device: torch.device) -> Any:
    """The recorder for a device, or None if the device cannot run graphs."""
    return CudaRecorder(device) if device.type == "cuda" else None


def _weakly(function: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    """A function that returns `function`. If `function` is a method, its owner is not kept alive."""
    if not inspect.ismethod(function):
        return lambda: function
    weak = WeakMethod(function)

    def alive() -> Callable[..., Any]:
        method = weak()
        assert method is not None
        return method

    return alive


def kind_of(tensor: Tensor) -> Hashable:
    """The properties of an input that a recording fixes; part of a key of `Graphs`."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
