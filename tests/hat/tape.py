"""A GPU's control flow and its graphs on a CPU.

`as_on_a_gpu` makes the library believe that to look at a value is to wait, and records steps on a `Tape`: every
operation and kernel launch with the very tensors it read and wrote, done again on replay as a CUDA graph does. A Python
number, or anything else that Python decides, stays as it was when the tape was made; so a step that depends on it
shows.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

import hat.steps.graphs
import hat_kernels
from hat_kernels import dispatch, table

WAITS = {"_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "unique_dim", "_unique2", "masked_select"}
FREE = {
    "_record_function_enter_new",
    "_record_function_exit",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "detach",
    "detach_",
    "alias",
    "lift_fresh",
    "_unsafe_view",  # a view, though its schema does not say so
}


class Tape(TorchDispatchMode):
    """What runs while it is the current mode, in order.

    Attributes:
        waits: operations that a GPU's host would wait for.
        launches: kernels by name: an operation that is no view, no allocation and not of an empty tensor counts as one.
        bytes: read and written, by the same names: every tensor that an operation takes or gives, once.

    Args:
        keep: write down every operation. This keeps every result alive, so autograd copies gradients that it would
            otherwise take over.
        run: run kernels. If not, they are only counted, and their results hold any values.
    """

    def __init__(self, *, keep: bool, run: bool = True) -> None:
        super().__init__()
        self.keep, self.runs = keep, run
        self.bytes: Counter[str] = Counter()
        self.entries: list[Any] = []
        self.waits: list[str] = []
        self.launches: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        if name in WAITS:
            self.waits.append(name)
        result = func(*args, **kwargs)
        if not _is_view(func, args, result) and name not in FREE:
            written = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
            self.launches[name] += not written or any(each.numel() for each in written)
            self.bytes[name] += _moved(func, args, kwargs, result)
            if self.keep:
                self.entries.append(lambda: _again(func, args, kwargs, result))
        return result

    def launched(self, run: Any) -> Any:
        """`run` of a Triton kernel, written down unless an operation that is on the tape has called it."""

        def recorded(kernel, *args, **options):
            own = not options.get("warmup") and _get_current_dispatch_mode() is self
            if self.runs:
                with _disable_current_modes():  # what an interpreted kernel is made of
                    run(kernel, *args, **options)
            if own:
                self.launches[kernel.__name__] += 1
                with _disable_current_modes():
                    self.bytes[kernel.__name__] += _traffic(kernel, args, options)
                if self.keep:
                    self.entries.append(lambda: run(kernel, *args, **options))

        return recorded

    def built(self, build: Any) -> Any:
        """`build` of a table of pointers: a GPU gets it by one copy from the host."""

        def copied(*args):
            if _get_current_dispatch_mode() is self:
                self.launches["copy of a table"] += 1
            with _disable_current_modes():
                return build(*args)

        return copied

    @contextlib.contextmanager
    def recording(self):
        from triton.runtime.interpreter import InterpretedFunction

        run, build = InterpretedFunction.run, table._build
        with (
            mock.patch.object(InterpretedFunction, "run", self.launched(run)),
            mock.patch.object(table, "_build", self.built(build)),
            self,
        ):
            yield self

    @torch.no_grad()
    def replay(self) -> None:
        for entry in self.entries:
            entry()


def _is_view(func, args, result) -> bool:
    """Some operations, as `to`, may give a view and have copied all the same."""
    returns = func._schema.returns
    may = bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    return may and {_memory(each) for each in tree_leaves(result)} <= {_memory(each) for each in tree_leaves(args)}


def _memory(value) -> int | None:
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else None


def _moved(func, args, kwargs, result) -> int:
    """Bytes that an operation reads and writes."""
    read, written = [*args], [result]
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write and index < len(args):
            written.append(args[index])  # a list of tensors, perhaps
            if func._schema.name.split("::")[1] in ("fill_", "zero_", "copy_"):
                read[index] = None  # what was there does not matter
    return _nbytes((read, {key: value for key, value in kwargs.items() if key != "out"})) + _nbytes(written)


def _nbytes(tensors) -> int:
    own = {id(each): each.nbytes for each in tree_leaves(tensors) if isinstance(each, Tensor)}
    return sum(own.values())


PASSES = {"sgd_kernel": 3, "adamw_kernel": 7, "_partial_kernel": 1}
"""Over each parameter of a table: it and its states are read and written, its gradient read."""


def _traffic(kernel, args, options) -> int:
    """The bytes of a kernel that is no operator of PyTorch. All tensors are float32."""
    passes = PASSES.get(kernel.__name__)
    if kernel.__name__ == "gated_linear_gradient":  # in an update; it does not touch the tiles that are locked
        shares = [(free != 0).float().mean() for free in (options["free_rows_ptr"], options["free_columns_ptr"])
                  if free is not None]  # fmt: skip
        locked = float(torch.stack([1 - share for share in shares]).prod()) if shares else 0.0
        return _nbytes((options["dz_ptr"], options["x_ptr"])) + int(2 * (1 - locked) * options["out_ptr"].nbytes)
    if passes is None:  # it names its tensors
        return _nbytes((args, options))
    rows = args[0].view(-1)
    count = int(rows.numel()) // table.FIELDS
    found = rows[: count * table.FIELDS].view(count, table.FIELDS)
    stateful = 2 * bool(options.get("STATEFUL"))
    return 4 * (passes + stateful) * int(found[:, table.NUMEL].sum())


def _again(func, args, kwargs, result) -> None:
    fresh = func(*args, **kwargs)
    if any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments):
        return  # it has written where it did
    for then, now in zip(tree_leaves(result), tree_leaves(fresh), strict=True):
        if isinstance(then, Tensor):
            then.copy_(now)


class TapeRecorder:
    """Stands in for `hat.steps.graphs.CudaRecorder`."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []

    def run(self, function, inputs):
        return function(*inputs)

    def obstacle(self, function, inputs):
        tape = Tape(keep=False)
        with tape.recording():
            result = function(*inputs)
        return result, f"it waits for {tape.waits[0]}" if tape.waits else ""

    def record(self, function, inputs):
        """Unlike a GPU, this runs the function while it records. So the first replay has happened already."""
        tape = Tape(keep=True)
        always = mock.Mock(return_value=True)
        with (
            mock.patch("hat_kernels.table.is_capturing", always),
            mock.patch("hat_kernels.gradient_memory.is_capturing", always),
            tape.recording(),
        ):
            result = function(*inputs)
        self.tapes.append(tape)
        done = iter([None])

        def replay():
            for _ in done:
                return
            tape.replay()

        return replay, result


def native_dropout(x: Tensor, probability: float, training: bool = True, inplace: bool = False) -> Tensor:
    """One kernel, as `F.dropout` is on a GPU; none where nothing is dropped."""
    return torch.native_dropout(x, probability, training)[0] if training and probability else x


@contextlib.contextmanager
def as_on_a_gpu(backend: str = "triton", *, matmuls: bool = True):
    """Yields the recorder of all graphs in the block; without `matmuls` the library's own are taken where there are."""
    recorder = TapeRecorder()
    with (
        mock.patch.object(dispatch, "_HOSTS", set()),
        mock.patch("hat_kernels.dropout.reference.dropout", native_dropout),
        mock.patch.object(hat.steps.graphs, "make_recorder", mock.Mock(return_value=recorder)),
        mock.patch("hat_kernels.gated_linear.api.forced", mock.Mock(return_value=matmuls)),
        mock.patch("hat_kernels.linear_update.triton.forced", mock.Mock(return_value=matmuls)),
        hat_kernels.backend(backend),
    ):
        yield recorder
