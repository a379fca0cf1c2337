"""Checks of arguments that several operations share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_parallel(
    name: str, tensors: Sequence[Tensor], parameters: Sequence[Tensor], noun: str = "a parameter"
) -> None:
    """Check that `tensors` has one tensor for each parameter, of the same shape and on the same device.

    Args:
        name: of the argument, for the error message.
        noun: what a parameter is called in the error message.

    Raises:
        ValueError: the lengths of the lists differ, or a shape or a device differs.
    """
    if len(tensors) != len(parameters):
        raise ValueError(f"{name}: expected {len(parameters)}, one {noun}, got {len(tensors)}")
    for index, (parameter, tensor) in enumerate(zip(parameters, tensors, strict=True)):
        if tensor.shape != parameter.shape:
            raise ValueError(f"{name}[{index}]: expected {tuple(parameter.shape)}, got {tuple(tensor.shape)}")
        if tensor.device != parameter.device:
            raise ValueError(f"{name}[{index}]: expected a tensor on {parameter.device}, got {tensor.device}")


def check_states(name: str, states: Sequence[Tensor], parameters: Sequence[Tensor], noun: str = "a parameter") -> None:
    """Check the state of an optimizer: one tensor for each parameter, of the parameter's dtype or float32.

    Raises:
        ValueError: as `check_parallel`.
        TypeError: the dtype of a state is neither the parameter's dtype nor float32.
    """
    check_parallel(name, states, parameters, noun)
    for index, (parameter, state) in enumerate(zip(parameters, states, strict=True)):
        allowed = dict.fromkeys((parameter.dtype, torch.float32))
        if state.dtype not in allowed:
            raise TypeError(f"{name}[{index}]: expected {' or '.join(map(str, allowed))}, got {state.dtype}")


def check_one_device(tensors: Sequence[Tensor], name: str = "parameters") -> None:
    """Check that all tensors are on the same device, because one launch runs on one device.

    Raises:
        ValueError: the tensors are on several devices.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        raise ValueError(f"{name}: expected one device, got {', '.join(sorted(map(str, devices)))}")


def check_scalar(name: str, value: Tensor | None) -> None:
    """Check that a tensor that stands for a number has exactly one element; None is allowed.

    Raises:
        ValueError: `value` has no element, or more than one.
    """
    if value is not None and value.numel() != 1:
        raise ValueError(f"{name}: expected one element, got shape {tuple(value.shape)}")


def check_units(name: str, value: Tensor, units: int, device: torch.device) -> None:
    """Check that `value` has one number for each unit, on the given device.

    Raises:
        ValueError: the shape is not [units], or the device differs.
    """
    if value.shape != (units,):
        raise ValueError(f"{name}: expected shape ({units},), got {tuple(value.shape)}")
    check_device(name, value, device)


def check_device(name: str, value: Tensor, device: torch.device) -> None:
    """Check that a tensor is on the given device.

    Raises:
        ValueError: the tensor is on another device.
    """
    if value.device != device:
        raise ValueError(f"{name}: expected device {device}, got {value.device}")
