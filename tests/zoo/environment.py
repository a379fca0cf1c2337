"""Make timm importable, even if the installed torchvision was built for another torch."""

from __future__ import annotations

import importlib
import importlib.util

import torch

# Operators of torchvision's compiled code. torchvision refers to them when it is imported. The zoo calls none of them.
_OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: list[torch.library.Library] = []


def prepare() -> bool:
    """Make timm importable.

    If torchvision can be imported, nothing is changed. A torchvision that was built for another device than torch lacks
    its compiled operators. Then this function defines the schemas of the operators that torchvision refers to.

    Returns:
        False if timm or torchvision is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("timm", "torchvision")):
        return False
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _define()
        importlib.import_module("torchvision")
    importlib.import_module("timm")
    return True


def _define() -> None:
    if not _library:
        _library.append(torch.library.Library("torchvision", "DEF"))
        for name, schema in _OPERATORS.items():
            _library[0].define(name + schema)
