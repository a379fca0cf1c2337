"""What every operation on a list of parameters checks before it starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_parallel(
    name: str, tensors: Sequence[Tensor], parameters: Sequence[Tensor], noun: str = "a parameter"
) -> None:
    """One tensor a parameter, of its shape and on its device.

    Raises:
        ValueError: the lists' lengths, a shape or a device differ.
    """
    if len(tensors) != len(parameters):
        raise ValueError(f"{name}: expected {len(parameters)}, one {noun}, got {len(tensors)}")
    for index, (parameter, tensor) in enumerate(zip(parameters, tensors, strict=True)):
        if tensor.shape != parameter.shape:
            raise ValueError(f"{name}[{index}]: expected {tuple(parameter.shape)}, got {tuple(tensor.shape)}")
        if tensor.device != parameter.device:
            raise ValueError(f"{name}[{index}]: expected a tensor on {parameter.device}, got {tensor.device}")


def check_states(name: str, states: Sequence[Tensor], parameters: Sequence[Tensor], noun: str = "a parameter") -> None:
    """What an optimizer keeps: one tensor a parameter, of its dtype or in float32.

    Raises:
        ValueError: as `check_parallel`.
        TypeError: a dtype is neither.
    """
    check_parallel(name, states, parameters, noun)
    for index, (parameter, state) in enumerate(zip(parameters, states, strict=True)):
        known = dict.fromkeys((parameter.dtype, torch.float32))
        if state.dtype not in known:
            raise TypeError(f"{name}[{index}]: expected {' or '.join(map(str, known))}, got {state.dtype}")


def check_one_device(tensors: Sequence[Tensor], name: str = "parameters") -> None:
    """One launch is of one device.

    Raises:
        ValueError: there are several.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        raise ValueError(f"{name}: expected one device, got {', '.join(sorted(map(str, devices)))}")


def check_scalar(name: str, value: Tensor | None) -> None:
    """A number that the device holds.

    Raises:
        ValueError: it has not exactly one element.
    """
    if value is not None and value.numel() != 1:
        raise ValueError(f"{name}: expected one element, got shape {tuple(value.shape)}")


def check_units(name: str, value: Tensor, units: int, device: torch.device) -> None:
    """One number a unit, on a device.

    Raises:
        ValueError: the shape or the device is another.
    """
    if value.shape != (units,):
        raise ValueError(f"{name}: expected shape ({units},), got {tuple(value.shape)}")
    check_device(name, value, device)


def check_device(name: str, value: Tensor, device: torch.device) -> None:
    """A tensor on a device.

    Raises:
        ValueError: it is on another.
    """
    if value.device != device:
        raise ValueError(f"{name}: expected device {device}, got {value.device}")
