"""What timm needs to be imported where torchvision has no build for this torch."""

from __future__ import annotations

import importlib
import importlib.util

import torch

# Without compiled code these are missing, and torchvision describes them as it is imported. Nobody calls them here.
_OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: list[torch.library.Library] = []


def prepare() -> bool:
    """Make timm importable, and say whether it is there.

    A torchvision made for another device than torch lacks its compiled operators; the schemas of those that its Python
    code refers to are defined here. One that works is left alone.
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
