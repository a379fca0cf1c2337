"""Which implementation of an operation runs: `auto`, `reference`, `triton` or `compiled`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from hat_kernels.check import check_choice

BACKENDS = ("auto", "reference", "triton", "compiled")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # the floating dtypes of the kernels


class _Choice(threading.local):
    """The backend that the present thread has chosen.

    The class attribute is the choice of all other threads: that of the last block that is open in any thread. A GPU
    computes gradients in threads of its own.
    """

    requested = "auto"


_CHOICE = _Choice()
_OPEN: dict[object, str] = {}  # the choice of every open block, in the order of their beginning
_OPENING = threading.Lock()


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Choose the implementation of every operation called inside the `with` block.

    The choice holds in this thread, and in all threads that make no choice of their own.

    Args:
        name: one of

            - `"auto"`: the Triton kernel if there is one for the device and dtype of the tensors, else the reference
            - `"reference"`: pure PyTorch on any device
            - `"triton"`: the Triton kernel, or an error if there is none
            - `"compiled"`: as `"auto"`, but `torch.compile` fuses the loops of a CPU that make several passes over
              memory, mainly momentum and Adam. The first call takes seconds. It needs a C++ compiler; without one, it
              warns and acts as `"auto"`

    Raises:
        ValueError: `name` is not one of these.
    """
    check_choice("backend", name, BACKENDS)
    block, before = object(), vars(_CHOICE).get("requested")
    with _OPENING:
        _OPEN[block] = _CHOICE.requested = _Choice.requested = name
    try:
        yield
    finally:
        with _OPENING:
            del _OPEN[block]
            _Choice.requested = next(reversed(_OPEN.values()), "auto")
        if before is None:
            del _CHOICE.requested
        else:
            _CHOICE.requested = before


def chosen_backend() -> str:
    """The name that the caller chose with `backend`."""
    return _CHOICE.requested


def free_to_read(tensor: Tensor) -> bool:
    """Whether the host can read the values at once. This is so on a CPU; on a GPU, reading waits for the device."""
    return tensor.device.type in _HOSTS


def use_specification() -> bool:
    """Whether the caller asked for the reference. Then no faster path in PyTorch takes its place either."""
    return _CHOICE.requested == "reference"


def use_compiled() -> bool:
    """Whether the caller asked for compiled loops."""
    return _CHOICE.requested == "compiled"


def forced() -> bool:
    """Whether the caller asked for our kernels, even if those of the vendor were measured to be faster."""
    return _CHOICE.requested == "triton"


def interpreted() -> bool:
    """Whether Triton interprets the kernels, on tensors of a CPU (`TRITON_INTERPRET=1`)."""
    return _INTERPRETED


def use_triton(op: str, *tensors: Tensor | None) -> bool:
    """Whether the Triton kernel of an operation computes these tensors.

    float64 is computed by the reference: it is used for gradcheck, and no GPU is fast at it.

    Args:
        op: the name of the operation, for the error message.
        tensors: the arguments of the operation; None is ignored.

    Raises:
        NotImplementedError: the caller asked for Triton, but there is no kernel: a tensor has another floating dtype, a
            tensor is not on a GPU and kernels are not interpreted, or Triton is not installed.
    """
    if _CHOICE.requested == "reference":
        return False
    present = [tensor for tensor in tensors if tensor is not None]
    reason = _obstacle(present)
    if reason and _CHOICE.requested == "triton":
        raise NotImplementedError(f"{op}: no Triton kernel for {reason}; use backend('auto') or 'reference'")
    return not reason and (_CHOICE.requested == "triton" or any(tensor.is_cuda for tensor in present))


def _obstacle(tensors: list[Tensor]) -> str:
    """Why no Triton kernel can compute these tensors; empty if one can."""
    if not _INSTALLED:
        return "a machine without the package triton"
    for tensor in tensors:
        if not tensor.is_cuda and not _INTERPRETED:
            return f"a tensor on {tensor.device}"
        if tensor.is_floating_point() and tensor.dtype not in DTYPES:
            return str(tensor.dtype).removeprefix("torch.")
    return ""


_HOSTS = {"cpu"}
_INSTALLED = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
