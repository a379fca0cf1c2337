"""Checks of arguments that several operations share, and of single arguments. They read no tensor.

Each error is one line: the name of the argument, what was expected and what was got. Operations are called in every
training step, so a check of many values is one function with a loop, and a message is made only for a wrong value.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

NUMBERS = (int, float, np.floating, np.integer)
"""The classes of numbers that PyTorch takes as scalars, and bool, which is an int."""
LARGEST = torch.finfo(torch.float32).max
"""The largest number that a kernel takes."""
_PLAIN = (bool, int, float, str, torch.dtype)


def got(value: object) -> str:
    """What a message says that an argument was: a short value itself, a tensor by its dtype and shape, or the class."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}, shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an int of {value.bit_length()} bits"
    text = ""
    if value is None or isinstance(value, _PLAIN):
        text = repr(value)
    elif isinstance(value, (list, tuple)) and 0 < len(value) <= 5 and all(isinstance(part, _PLAIN) for part in value):
        text = f"({', '.join(map(got, value))})"
    if text:
        return text if len(text) <= 60 else f"{text[:57]}..."
    return f"a value of type {type(value).__name__}"


def check_whole(name: str, value: object, *, least: int | None = None) -> None:
    """Check a whole number.

    Raises:
        ValueError: `value` is not an int, or it is below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}: expected an int, got {got(value)}")
    if least is not None and value < least:
        raise ValueError(f"{name}: expected at least {least}, got {got(value)}")


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    finite: bool = True,
) -> None:
    """Check a number.

    Args:
        name: of the argument.
        value: of the argument.
        above: exclusive lower bound, or None.
        least: inclusive lower bound, or None.
        below: exclusive upper bound, or None.
        most: inclusive upper bound, or None.
        finite: whether infinity is refused.

    Raises:
        ValueError: `value` is not a number, is NaN, is out of the bounds, or is a number that float32 or an int
            that 64 bits do not hold.
    """
    value = float(value) if isinstance(value, np.floating) else value  # NumPy warns of a bound that float16 cannot hold
    if not (
        isinstance(value, NUMBERS)
        and not isinstance(value, bool)
        and (abs(value) <= sys.float_info.max or (abs(value) == math.inf and not finite))  # a NaN is neither
        and (above is None or value > above)
        and (least is None or value >= least)
        and (below is None or value < below)
        and (most is None or value <= most)
    ):
        signs = ((">", above), (">=", least), ("<", below), ("<=", most))
        bounds = [f"{sign} {bound:g}" for sign, bound in signs if bound is not None]
        expected = " and ".join([" ".join(["a finite number" if finite else "a number", *bounds[:1]]), *bounds[1:]])
        raise ValueError(f"{name}: expected {expected}, got {got(value)}")
    if finite and abs(value) > LARGEST:
        raise ValueError(f"{name}: expected a number that float32 holds, got {got(value)}")
    if isinstance(value, int) and value.bit_length() > 63:
        raise ValueError(f"{name}: expected a float or an int that 64 bits hold, got {got(value)}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Check a choice.

    Raises:
        ValueError: `value` is not one of the choices.
    """
    if not (isinstance(value, str) and value in choices):
        raise ValueError(f"{name}: expected one of {choices}, got {got(value)}")


def check_switches(**values: object) -> None:
    """Check switches by name.

    Raises:
        ValueError: a value is neither True nor False.
    """
    for name, value in values.items():
        if value is not True and value is not False:
            raise ValueError(f"{name}: expected True or False, got {got(value)}")


def check_at_least_0(**values: object) -> None:
    """Check numbers by name.

    Raises:
        ValueError: a value is not a number >= 0 that float32 holds.
    """
    for name, value in values.items():
        if not (isinstance(value, float) and 0 <= value <= LARGEST):
            check_number(name, value, least=0)


def check_tensors(**values: object) -> None:
    """Check dense floating tensors by name.

    Raises:
        TypeError: a value is not a tensor, its dtype is not floating, or it is sparse or nested.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {got(value)}")
        if not value.is_floating_point():
            raise TypeError(f"{name}: expected a floating dtype, got {value.dtype}")
        if value.is_nested or value.layout is not torch.strided:
            kind = "a nested one" if value.is_nested else value.layout
            raise TypeError(f"{name}: expected a dense tensor, got {kind}")


def check_list(name: str, values: object) -> None:
    """Check a list of dense floating tensors.

    Raises:
        TypeError: `values` is not a list or a tuple, or as `check_tensors`.
    """
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name}: expected a list of tensors, got {got(values)}")
    for index, value in enumerate(values):
        dense = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested
        if not dense or not value.is_floating_point():
            check_tensors(**{f"{name}[{index}]": value})


def check_changeable(**values: Tensor | Sequence[Tensor]) -> None:
    """Check that tensors, or lists of tensors, can be changed in place.

    Raises:
        ValueError: autograd records changes of a leaf, or elements of a tensor share memory (a dimension longer than 1
            has stride 0).
    """
    recording = torch.is_grad_enabled()
    for name, value in values.items():
        for index, tensor in enumerate([value] if isinstance(value, Tensor) else value):
            place = name if isinstance(value, Tensor) else f"{name}[{index}]"
            if recording and tensor.requires_grad and (tensor if tensor._base is None else tensor._base).is_leaf:
                raise ValueError(f"{place}: expected a call under torch.no_grad(), got a leaf that requires a gradient")
            if 0 not in tensor.stride():
                continue
            for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
                if size > 1 and stride == 0:
                    got_ = f"stride 0 along dimension {dim}"
                    raise ValueError(f"{place}: expected elements with memory of their own, got {got_}")


def check_parallel(
    name: str, tensors: Sequence[Tensor], parameters: Sequence[Tensor], noun: str = "a parameter"
) -> None:
    """Check that `tensors` has one tensor for each parameter, of the same shape and on the same device.

    Args:
        name: of the argument, for the error message.
        noun: what a parameter is called in the error message.

    Raises:
        TypeError: as `check_list`.
        ValueError: the lengths of the lists differ, or a shape or a device differs.
    """
    check_list(name, tensors)
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
        ValueError: as `check_parallel` and `check_changeable`.
        TypeError: the dtype of a state is neither the parameter's dtype nor float32, or as `check_list`.
    """
    check_parallel(name, states, parameters, noun)
    check_changeable(**{name: states})
    for index, (parameter, state) in enumerate(zip(parameters, states, strict=True)):
        allowed = dict.fromkeys((parameter.dtype, torch.float32))
        if state.dtype not in allowed:
            raise TypeError(f"{name}[{index}]: expected {' or '.join(map(str, allowed))}, got {state.dtype}")


def check_one_device(tensors: Sequence[Tensor], name: str = "parameters") -> torch.device:
    """Check that all tensors are on the same device, because one launch runs on one device.

    Returns:
        The device; the CPU if there is no tensor.

    Raises:
        ValueError: the tensors are on several devices.
    """
    device = tensors[0].device if tensors else torch.device("cpu")
    for tensor in tensors:
        if tensor.device != device:
            raise ValueError(f"{name}: expected one device, got {', '.join(sorted(map(str, (device, tensor.device))))}")
    return device


def check_scalar(name: str, value: Tensor | None, device: torch.device) -> None:
    """Check a tensor that stands for a number; None is allowed.

    Raises:
        TypeError: `value` is not a dense floating tensor.
        ValueError: `value` has no element, or more than one; or it is neither on `device` nor on the CPU.
    """
    if value is None:
        return
    check_tensors(**{name: value})
    if value.numel() != 1:
        raise ValueError(f"{name}: expected one element, got shape {tuple(value.shape)}")
    if value.device.type != "cpu" and value.device != device:
        raise ValueError(f"{name}: expected a tensor on {device} or the CPU, got {value.device}")


def check_rate(lr: float | Tensor, device: torch.device, name: str = "lr") -> None:
    """Check a learning rate: a number, or a tensor of one element, whose value is not read.

    Raises:
        TypeError: `lr` is a tensor, but not a dense floating one.
        ValueError: `lr` is not a number >= 0 that float32 holds, or as `check_scalar`.
    """
    if isinstance(lr, Tensor):
        check_scalar(name, lr, device)
    else:
        check_number(name, lr, least=0)


def check_units(name: str, value: Tensor, units: int, device: torch.device) -> None:
    """Check that `value` has one number for each unit, on the given device.

    Raises:
        TypeError: `value` is not a dense floating tensor.
        ValueError: the shape is not [units], or the device differs.
    """
    dense = isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested
    if not dense or not value.is_floating_point():
        check_tensors(**{name: value})
    if value.shape != (units,):
        raise ValueError(f"{name}: expected shape ({units},), got {tuple(value.shape)}")
    if value.device != device:
        check_device(name, value, device)


def check_device(name: str, value: Tensor, device: torch.device) -> None:
    """Check that a tensor is on the given device.

    Raises:
        ValueError: the tensor is on another device.
    """
    if value.device != device:
        raise ValueError(f"{name}: expected device {device}, got {value.device}")
