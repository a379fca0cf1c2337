"""Which implementation of an operation runs: `auto`, `reference`, `triton` or `compiled`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator

import torch
from torch import Tensor

BACKENDS = ("auto", "reference", "triton", "compiled")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # of the kernels


class _Choice:
    """Of the whole process: the backward pass of a GPU runs in threads of its own."""

    requested = "auto"


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Choose the implementation of every operation called inside the `with` block, in all threads.

    Args:
        name: `"auto"` (Triton where there is a kernel for the tensors' device and dtype, else the reference),
            `"reference"` (pure PyTorch on any device), `"triton"` (the kernel, or an error where there is none) or
            `"compiled"` (as `"auto"`, but the loops of a CPU that make several passes over memory, momentum and Adam
            above all, are fused by `torch.compile`; that takes seconds at first, and a C++ compiler: without one it
            warns and is as `"auto"`).

    Raises:
        ValueError: `name` is none of the four.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend: expected one of {BACKENDS}, got {name!r}")
    before, _Choice.requested = _Choice.requested, name
    try:
        yield
    finally:
        _Choice.requested = before


def chosen_backend() -> str:
    """What the caller asked for, see `backend`."""
    return _Choice.requested


def free_to_read(tensor: Tensor) -> bool:
    """Whether its values can be looked at for nothing: on a CPU. Elsewhere to look is to wait for the device."""
    return tensor.device.type in _HOSTS


def use_specification() -> bool:
    """Whether the caller asked for the reference, in which case no faster path of PyTorch takes its place either."""
    return _Choice.requested == "reference"


def use_compiled() -> bool:
    """Whether the caller asked for compiled loops."""
    return _Choice.requested == "compiled"


def forced() -> bool:
    """Whether the caller asked for kernels, also where the library's own are measured to be faster."""
    return _Choice.requested == "triton"


def interpreted() -> bool:
    """Whether Triton interprets kernels, on CPU tensors."""
    return _INTERPRETED


def use_triton(op: str, *tensors: Tensor | None) -> bool:
    """Whether the Triton kernel of `op` takes these tensors.

    float64 is for the reference: it serves gradcheck, and no GPU is fast at it.

    Raises:
        NotImplementedError: the caller asked for Triton, and a tensor is of another floating dtype or not on a GPU (nor
            is the interpreter on, `TRITON_INTERPRET=1`, which takes CPU tensors), or Triton is not installed.
    """
    if _Choice.requested == "reference":
        return False
    present = [tensor for tensor in tensors if tensor is not None]
    reason = _obstacle(present)
    if reason and _Choice.requested == "triton":
        raise NotImplementedError(f"{op}: no Triton kernel for {reason}; use backend('auto') or 'reference'")
    return not reason and (_Choice.requested == "triton" or any(tensor.is_cuda for tensor in present))


def _obstacle(tensors: list[Tensor]) -> str:
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
